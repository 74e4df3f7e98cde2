"""Masks: white is what is repainted, black is what stays."""

from typing import Any

import numpy as np
from PIL import Image

from eyesel.errors import ImageError
from eyesel.images.decode import open_image

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, right and bottom outside


def open_mask(source: Any) -> Image.Image:
    """A mask as an image of mode L, by the luminance of what `open_image` takes."""
    picture = open_image(source, "RGBA")
    if inverted(picture.getchannel("A")).getbbox() is not None:
        raise ImageError(
            "the mask has transparent parts, which could mean either: save it in black and white (white is repainted), "
            "or take alpha as the mask, to repaint where the picture itself is transparent."
        )
    return picture.convert("RGB").convert("L")


def alpha_mask(source: Any) -> Image.Image:
    """White where the picture is transparent."""
    return inverted(open_image(source, "RGBA").getchannel("A"))


def inverted(mask: Image.Image) -> Image.Image:
    return mask.point(range(255, -1, -1))


def blurred(mask: Image.Image, sigma: int) -> Image.Image:
    """Softened by a Gaussian of `sigma` pixels, cut off at 2.5 of them as AUTOMATIC1111 does; 0 leaves it as it is."""
    if sigma == 0:
        return mask
    radius = int(2.5 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    values = np.asarray(mask).astype(np.float64)
    for _ in range(2):  # rows, then columns
        padded = np.pad(values, ((radius, radius), (0, 0)), mode="edge")
        height = len(values)
        values = sum(weight * padded[i : i + height] for i, weight in enumerate(weights)).T
    return Image.fromarray(values.round().astype(np.uint8))


def around(mask: Image.Image, padding: int, aspect: float) -> Box:
    """The box around all that is not black, wider by `padding` pixels on all sides.

    It grows to the proportions `aspect`, width / height, as far as the picture has room.
    """
    found = mask.getbbox()
    if found is None:
        raise ImageError("the mask is all black: paint white what is to be repainted.")
    left, top, right, bottom = found
    left, right = max(left - padding, 0), min(right + padding, mask.width)
    top, bottom = max(top - padding, 0), min(bottom + padding, mask.height)
    if (right - left) / (bottom - top) < aspect:
        left, right = _grown(left, right, round((bottom - top) * aspect), mask.width)
    else:
        top, bottom = _grown(top, bottom, round((right - left) / aspect), mask.height)
    return left, top, right, bottom


def _grown(start: int, end: int, length: int, most: int) -> tuple[int, int]:
    """An interval around its middle, moved where it would leave 0 to `most`."""
    length = min(max(length, end - start), most)
    start = min(max(start - (length - (end - start)) // 2, 0), most - length)
    return start, start + length


def filled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """What lies under the mask replaced by the colours around it, smoothly (push-pull, Gortler et al. 1996)."""
    known = 1 - np.asarray(mask).astype(np.float64)[..., None] / 255  # (H, W, 1)
    colours = _push_pull(np.asarray(image).astype(np.float64) * known, known)
    smooth = Image.fromarray(colours.round().clip(0, 255).astype(np.uint8))
    return Image.composite(smooth, image, mask)


def _push_pull(colours: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(H, W, 3) colours, weighted by (H, W, 1), and where weights are small the colours of coarser levels."""
    height, width = weights.shape[:2]
    if height == width == 1:
        return colours / np.maximum(weights, 1e-9)
    even = ((0, height % 2), (0, width % 2), (0, 0))
    half_colours, half_weights = (
        np.pad(values, even).reshape((height + 1) // 2, 2, (width + 1) // 2, 2, -1).sum((1, 3))
        for values in (colours, weights)
    )
    share = np.minimum(half_weights, 1) / np.maximum(half_weights, 1e-9)
    coarse = _push_pull(half_colours * share, half_weights * share)  # ((H + 1) / 2, (W + 1) / 2, 3)
    smooth = _twice(_twice(coarse).transpose(1, 0, 2)).transpose(1, 0, 2)[:height, :width]
    return colours + (1 - weights) * smooth


def _twice(values: np.ndarray) -> np.ndarray:
    """Each row twice, and a quarter of its neighbour on that side in each: linear interpolation."""
    padded = np.concatenate([values[:1], values, values[-1:]])
    pairs = np.stack([0.75 * values + 0.25 * padded[:-2], 0.75 * values + 0.25 * padded[2:]], axis=1)
    return pairs.reshape(-1, *values.shape[1:])
