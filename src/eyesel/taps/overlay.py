"""A heat map laid over its picture."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance

from eyesel.errors import SettingError

SMALL = 256  # pictures with no side longer than this are enlarged...
SHOWN = 512  # ...to at least this
FADING = 1.5  # how much of its saturation the picture loses under an opacity of 1, where at most all is lost
FRAME = (0, 255, 255)  # a colour that the colour map has not

# matplotlib's "inferno" at ten equal steps: lightness grows evenly from nearly black to nearly white, so that more
# always looks like more, in print and to the colour-blind.
_INFERNO = "000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4"
_ANCHORS = np.array([list(bytes.fromhex(colour)) for colour in _INFERNO.split()], np.float32)  # (10, 3)


def colour_map(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] of any shape -> colours (..., 3), floats from 0 to 255."""
    steps = np.linspace(0, 1, len(_ANCHORS))
    return np.stack([np.interp(values, steps, channel) for channel in _ANCHORS.T], axis=-1)


def overlay(
    image: Image.Image,
    heat: np.ndarray | torch.Tensor,
    alpha: float = 0.5,
    marked: np.ndarray | torch.Tensor | None = None,
) -> Image.Image:
    """The picture with `heat` (h, w), an array or tensor of any scale, over it at opacity `alpha` from 0 to 1.

    The heat is stretched to the picture (bicubic), its 1st percentile becomes black and its 99th bright yellow. The
    picture's own colours fade where it is covered, or they would be taken for heat. Colours (h, w, 3) from 0 to 1 may
    take the place of heat and are shown as they are. Patches that are `marked` (h, w) are framed. The result is an RGB
    image of the picture's size; a picture no larger than 256 pixels is enlarged first, by a whole factor and without
    smoothing, to 512 or more, so that there is something to see.
    """
    values = torch.as_tensor(heat).detach().float().cpu().numpy()  # (h, w) or (h, w, 3)
    if (values.ndim != 2 and values.shape[2:] != (3,)) or values.size == 0 or not np.isfinite(values).all():
        raise SettingError(
            f"a heat map of shape {values.shape} cannot be shown: use (height, width) of finite numbers."
        )
    if not 0 <= alpha <= 1:
        raise SettingError(f"the opacity {alpha} is out of range: use 0 (only the picture) to 1 (only the heat map).")
    picture = enlarged(image)
    faded = ImageEnhance.Color(picture).enhance(max(0.0, 1 - FADING * alpha))
    if values.ndim == 2:
        colours = colour_map(_stretched(_normalised(values), picture.size))
    else:
        channels = [_stretched(np.ascontiguousarray(channel), picture.size) for channel in np.moveaxis(values, -1, 0)]
        colours = 255 * np.stack(channels, axis=-1)  # (H, W, 3)
    mixed = (1 - alpha) * np.asarray(faded, np.float32) + alpha * colours
    shown = Image.fromarray(mixed.round().astype(np.uint8))
    if marked is not None:
        _frame(shown, np.asarray(marked))
    return shown


def enlarged(image: Image.Image) -> Image.Image:
    """An RGB picture of which there is something to see: small ones as `overlay` enlarges them."""
    longer = max(image.size)
    factor = -(-SHOWN // longer) if longer < SMALL else 1
    return image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _stretched(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)


def _frame(image: Image.Image, marked: np.ndarray) -> None:
    rows, columns = marked.shape
    height, width = image.height / rows, image.width / columns
    draw, line = ImageDraw.Draw(image), max(1, round(min(height, width) / 16))
    for row, column in np.argwhere(marked):
        corners = (column * width, row * height, (column + 1) * width - 1, (row + 1) * height - 1)
        draw.rectangle(corners, outline=FRAME, width=line)


def _normalised(values: np.ndarray) -> np.ndarray:
    """To [0, 1] by percentiles, so that one outlier does not blacken the rest; an even map becomes zeros."""
    low, high = np.percentile(values, (1, 99))
    if high <= low:
        low, high = values.min(), values.max()
    if high <= low:
        return np.zeros_like(values)
    return ((values - low) / (high - low)).clip(0, 1).astype(np.float32)
