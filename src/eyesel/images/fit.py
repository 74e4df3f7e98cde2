"""A picture made to fit another size: the resize modes of image to image."""

import numpy as np
from PIL import Image

from eyesel.errors import ImageError, SettingError
from eyesel.images.decode import MAX_PIXELS
from eyesel.images.masks import Box

FILTERS = {"lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}  # that enlarge pictures
RESIZES = {
    "stretch": "the whole picture, its proportions given up",
    "crop": "its proportions kept, what is too much cut off on both sides",
    "fill": "its proportions kept, what is missing filled with the colours of its edges",
}


def fitted(
    image: Image.Image,
    size: tuple[int, int],
    resize: str = "stretch",
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """`image` in `size` (width, height), by Lanczos' filter; `resize` is one of `RESIZES`.

    Raises `SettingError`, and `ImageError` for a picture so narrow that more than `MAX_PIXELS` would be cut off.
    """
    if resize not in RESIZES:
        raise SettingError(f"resize is {resize!r}; choose one of {', '.join(RESIZES)}.")
    if image.size == size:
        return image
    if resize == "stretch":
        return image.resize(size, resample)
    ratios = size[0] / image.width, size[1] / image.height
    scale = max(ratios) if resize == "crop" else min(ratios)
    width, height = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"the picture of {image.width} x {image.height} is too narrow for {size[0]} x {size[1]}: cut it first."
        )
    left, top = (size[0] - width) // 2, (size[1] - height) // 2  # negative where something is cut off
    box = (-left, -top, size[0] - left, size[1] - top)
    return window(image.resize((width, height), resample), box)


def window(image: Image.Image, box: Box) -> Image.Image:
    """What is seen through the box, which may reach beyond the picture: there its edges go on."""
    left, top, right, bottom = box
    columns = np.arange(left, right).clip(0, image.width - 1)
    rows = np.arange(top, bottom).clip(0, image.height - 1)
    return Image.fromarray(np.asarray(image)[rows[:, None], columns])
