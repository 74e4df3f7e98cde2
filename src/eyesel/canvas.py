"""What a picture and a mask become for the network, and how what it paints gets back into the picture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from eyesel.errors import ImageError, SettingError
from eyesel.images import alpha_mask, around, blurred, filled, fitted, inverted, open_image, open_mask, window
from eyesel.images.masks import Box
from eyesel.settings import Settings

SIZE_STEP = 8  # pixels: what is painted is a multiple of it wide and high
MAX_SIDE = 8192  # pixels
ALPHA = "alpha"  # in place of a mask: the transparency of the picture


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture, the part of it that is shown to the network, and what of it is repainted."""

    whole: Image.Image  # RGB
    box: Box  # of `whole`, the part that is shown; it reaches beyond the picture where that is no multiple of 8
    view: Image.Image  # that part in the size in which it is painted
    shape: Image.Image | None = None  # L, over `whole`: what is repainted; None is all
    mask: Image.Image | None = None  # the same with its edge softened: what is pasted

    @property
    def view_shape(self) -> Image.Image | None:
        """What of `view` is repainted."""
        return None if self.shape is None else _fitted_shape(self.shape.crop(self.box), self.view.size)

    def pasted(self, painted: Image.Image) -> Image.Image:
        """The picture with what was painted over `view`; where the mask is black it is as it was, bit for bit."""
        left, top, right, bottom = self.box
        result = self.whole.copy()
        patch = fitted(painted, (right - left, bottom - top))
        result.paste(patch, (left, top), None if self.mask is None else self.mask.crop(self.box))
        return result


def prepare(image: Any, mask: Any, settings: Settings, native: tuple[int, int]) -> Canvas:
    """The canvas of a call. `image` is what `open_image` takes; `mask` is, too, or "alpha", or None for no mask.

    `native` is the size in which a masked part is repainted unless the settings have one. Raises `ImageError` and
    `SettingError`.
    """
    picture = open_image(image)
    _check_sides(picture.size, settings)
    shape = _mask(image, mask, picture.size)
    if shape is not None and settings.invert:
        shape = inverted(shape)
    if settings.expand is not None:
        picture, shape = _expanded(picture, shape, settings.expand)
    if shape is None:
        return _whole(picture if settings.size is None else fitted(picture, settings.size, settings.resize))
    if shape.getbbox() is None:
        raise ImageError("the mask is all black, or dark grey: paint white what is to be repainted.")
    if settings.only_masked:
        return _part(picture, shape, settings, native)
    if settings.size is not None:
        picture = fitted(picture, settings.size, settings.resize)
        shape = _fitted_shape(shape, settings.size, settings.resize)
    return _whole(picture, shape, settings.mask_blur)


def _check_sides(size: tuple[int, int], settings: Settings) -> None:
    """Before anything grows."""
    left, top, right, bottom = settings.expand or (0, 0, 0, 0)
    grown = size[0] + left + right, size[1] + top + bottom
    for what, sides in (("The picture and what expand adds are", grown), ("size is", settings.size or size)):
        if not all(1 <= side <= MAX_SIDE for side in sides) and (sides is not size or not settings.only_masked):
            raise SettingError(f"{what} {sides[0]}x{sides[1]} pixels; each side must lie between 1 and {MAX_SIDE}.")


def _fitted_shape(shape: Image.Image, size: tuple[int, int], resize: str = "stretch") -> Image.Image:
    """What is repainted, in another size: every pixel that has a white one under it, so that no thin line is lost."""
    covered = fitted(shape.convert("F"), size, resize, Image.Resampling.BOX)
    return Image.fromarray(np.where(np.asarray(covered) > 0, 255, 0).astype(np.uint8))


def _mask(image: Any, mask: Any, size: tuple[int, int]) -> Image.Image | None:
    if mask is None:
        return None
    if isinstance(mask, str) and mask == ALPHA:
        shape = alpha_mask(image).point(lambda value: 255 if value >= 128 else 0)
        if shape.getbbox() is None:
            raise ImageError("the picture has no transparent part to repaint: give a mask of its own.")
        return shape
    shape = open_mask(mask).point(lambda value: 255 if value >= 128 else 0)
    if shape.size != size:
        raise ImageError(
            f"the mask is {shape.width}x{shape.height} pixels and the picture {size[0]}x{size[1]}: make them equal."
        )
    return shape


def _expanded(
    picture: Image.Image, mask: Image.Image | None, expand: tuple[int, int, int, int]
) -> tuple[Image.Image, Image.Image]:
    """A larger canvas, its new parts in the colours of the old and under the mask."""
    left, top, right, bottom = expand
    if not any(expand):
        raise SettingError("expand is 0,0,0,0; it must add pixels on a side, such as 0,0,256,0 on the right.")
    if mask is None:
        mask = Image.new("L", picture.size)
    larger = window(picture, (-left, -top, picture.width + right, picture.height + bottom))
    new, whole_mask = Image.new("L", larger.size, 255), Image.new("L", larger.size, 255)
    new.paste(0, (left, top, left + picture.width, top + picture.height))
    whole_mask.paste(mask, (left, top))
    return filled(larger, new), whole_mask


def _whole(picture: Image.Image, shape: Image.Image | None = None, blur: int = 0) -> Canvas:
    width, height = (-(-side // SIZE_STEP) * SIZE_STEP for side in picture.size)
    box = (0, 0, width, height)
    return Canvas(picture, box, window(picture, box), shape, shape and _softened(shape, blur))


def _softened(shape: Image.Image, blur: int) -> Image.Image:
    mask = blurred(shape, blur)
    if np.asarray(mask).max() < 64:
        raise SettingError(f"mask_blur is {blur}, which leaves next to nothing of so small a mask: take less, or 0.")
    return mask


def _part(picture: Image.Image, shape: Image.Image, settings: Settings, native: tuple[int, int]) -> Canvas:
    width, height = settings.size or native
    mask = _softened(shape, settings.mask_blur)
    box = around(mask, settings.padding, width / height)
    return Canvas(picture, box, fitted(picture.crop(box), (width, height)), shape, mask)
