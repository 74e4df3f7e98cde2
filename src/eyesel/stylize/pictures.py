"""The pictures of a style transfer, checked and brought to one size."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from eyesel.canvas import Canvas, prepare
from eyesel.errors import ImageError, SettingError
from eyesel.fields import plain
from eyesel.images import fitted, open_image, open_mask
from eyesel.settings import Settings

MIN_SIDE = 16  # pixels: of smaller pictures there is a single latent, which has no deviation


def pictures_of(
    content: Any, style: Any, weights: Sequence[float] | None, mask: Any, longest: int | None
) -> tuple[Canvas, list[Image.Image], list[float]]:
    """The canvas of the content, the styles cropped to its proportions and in its size, and their shares of 1."""
    sources = list(style) if isinstance(style, list | tuple) else [style]
    shares = _shares(weights, len(sources))
    picture = _checked(content, "content")
    styles = [_checked(source, "style") for source in sources]
    if mask is not None:
        mask = open_mask(mask)
        if mask.size != picture.size:
            raise ImageError(
                f"the mask is {mask.width}x{mask.height} pixels and the content {picture.width}x{picture.height}: "
                "make them equal."
            )
    if longest is not None:
        scale = longest / max(picture.size)
        size = max(round(picture.width * scale), MIN_SIDE), max(round(picture.height * scale), MIN_SIDE)
        picture, mask = fitted(picture, size), None if mask is None else fitted(mask, size)
    canvas = prepare(picture, mask, Settings(mask_blur=0), picture.size)
    return canvas, [fitted(each, canvas.view.size, "crop") for each in styles], shares


def _checked(source: Any, what: str) -> Image.Image:
    picture = open_image(source)
    if min(picture.size) < MIN_SIDE:
        name = f" {os.fspath(source)}" if isinstance(source, str | os.PathLike) else ""
        raise ImageError(
            f"the {what}{name} is {picture.width}x{picture.height} pixels: style transfer needs at least "
            f"{MIN_SIDE}x{MIN_SIDE}."
        )
    return picture


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if count == 0:
        raise SettingError("There is no style: give at least one picture.")
    weights = [1.0] * count if weights is None else plain(list(weights))
    if len(weights) != count:
        raise SettingError(f"There are {len(weights)} weights and {count} styles: give one for each.")
    for weight in weights:
        if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise SettingError(f"The weight of a style is {weight!r}; it must be 0 or more, such as 0.5.")
    if not sum(weights):
        raise SettingError("All styles weigh 0: give at least one of them a weight.")
    return [weight / sum(weights) for weight in weights]


def described(content: Any, style: Any, shares: Sequence[float], prompt: str | None) -> dict[str, Any]:
    """What the record says of the pictures: the names of their files, without their folders."""
    names = [_name(each) for each in (style if isinstance(style, list | tuple) else [style])]
    return {"prompt": prompt or "", "content": _name(content), "styles": tuple(names), "style_weights": tuple(shares)}


def _name(source: Any) -> str:
    return Path(source).name if isinstance(source, str | os.PathLike) else ""
