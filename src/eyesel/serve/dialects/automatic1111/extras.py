"""extra-single-image and extra-batch-images: pictures enlarged by a filter, of which `upscalers` lists the names.

There is no network here that enlarges pictures or restores faces, so these are refused by name. Sizes are exact, where
the program rounds down to multiples of 8. As there, transparency is lost, and pictures keep the settings that they were
painted with.
"""

import asyncio
import base64
import html
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import Field

from eyesel.images import FILTERS, check_room, fitted, write_image
from eyesel.infotext.rows import UPSCALERS
from eyesel.serve.access import client_of
from eyesel.serve.dialects.automatic1111.fields import Asked
from eyesel.serve.dialects.automatic1111.options import FORMATS, Clients, Options
from eyesel.serve.dialects.automatic1111.sent import OnePicture, one_picture
from eyesel.serve.dialects.described import AS_JSON, PICTURE, described
from eyesel.serve.dialects.parameters import Number, Said, Whole, understood
from eyesel.serve.dialects.pictures import FORMATS as PILLOW
from eyesel.serve.dialects.pictures import texts_of
from eyesel.serve.engine import Engine
from eyesel.serve.errors import ApiError
from eyesel.serve.intake import decoded, picture_bytes, read_body
from eyesel.serve.options import ServerOptions

NONE = "None"
_FILTERS = {UPSCALERS.write(name): filter for name, filter in FILTERS.items()}
_Share = Annotated[Number, Field(ge=0, le=1)]
_Side = Annotated[Whole, Field(ge=1, le=100_000)]


class Extras(Asked):
    """What both have in common. `codeformer_weight` and `upscale_first` do something only where faces are restored."""

    resize_mode: Literal[0, 1] = Field(0, description="by a factor, or to a size")
    upscaling_resize: Annotated[Number, Field(gt=0, le=1000)] = 2
    upscaling_resize_w: _Side = 512
    upscaling_resize_h: _Side = 512
    upscaling_crop: bool = True
    upscaler_1: str = NONE
    upscaler_2: str = NONE
    extras_upscaler_2_visibility: _Share = 0
    gfpgan_visibility: _Share = 0
    codeformer_visibility: _Share = 0
    codeformer_weight: _Share = 0
    upscale_first: bool = False
    show_extras_results: bool = True  # of a folder of the server's, which is not read here
    override_settings: dict[str, Any] | None = None
    override_settings_restore_afterwards: bool | None = True


class SingleImage(Extras, OnePicture):
    pass


class NamedImage(Said):
    data: str
    name: str | None = None


class BatchImages(Extras):
    imageList: list[NamedImage]


def check_extras(asked: Extras) -> None:
    """Refuse with a 422 what would do something that cannot be done here."""
    for name in ("gfpgan_visibility", "codeformer_visibility"):
        if getattr(asked, name):
            raise ApiError(422, f"{name} is {getattr(asked, name):g}, and faces cannot be restored here: take 0.", name)
    for name in ("upscaler_1", "upscaler_2"):
        if (upscaler := getattr(asked, name)) not in (NONE, *_FILTERS):
            raise ApiError(422, f"{name} is {upscaler!r:.100}; there are {NONE}, {', '.join(_FILTERS)}.", name)
    if _second(asked) and asked.upscaler_1 == NONE:
        raise ApiError(422, f"upscaler_2 is {asked.upscaler_2}, which needs an upscaler_1: give one.", "upscaler_2")


def scaled_size(size: tuple[int, int], asked: Extras) -> tuple[int, int]:
    """(width, height) to which a picture of `size` is scaled; with `upscaling_crop`, what is too much is cut off."""
    if asked.upscaler_1 == NONE:
        return size
    factor = asked.upscaling_resize
    if asked.resize_mode == 1:
        factor = max(asked.upscaling_resize_w / size[0], asked.upscaling_resize_h / size[1])
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def enlarged(image: Image.Image, asked: Extras) -> Image.Image:
    """A picture (RGB) by the filters that were asked for; as it is without."""
    if asked.upscaler_1 == NONE:
        return image
    cropped = asked.resize_mode == 1 and asked.upscaling_crop
    size = (asked.upscaling_resize_w, asked.upscaling_resize_h) if cropped else scaled_size(image.size, asked)
    resize = "crop" if cropped else "stretch"
    first = fitted(image, size, resize, _FILTERS[asked.upscaler_1])
    if not _second(asked):
        return first
    second = fitted(image, size, resize, _FILTERS[asked.upscaler_2])
    return Image.blend(first, second, asked.extras_upscaler_2_visibility)


def told(asked: Extras) -> str:
    """What was done, as the program writes it into pictures."""
    if asked.upscaler_1 == NONE:
        return ""
    to_size = f"to: {asked.upscaling_resize_w}x{asked.upscaling_resize_h}"
    parts = [f"Postprocess upscale {to_size if asked.resize_mode == 1 else f'by: {asked.upscaling_resize:g}'}"]
    if asked.resize_mode == 1 and asked.upscaling_crop:
        parts.append(f"Postprocess crop {to_size}")
    parts.append(f"Postprocess upscaler: {asked.upscaler_1}")
    if _second(asked):
        parts.append(f"Postprocess upscaler 2: {asked.upscaler_2}")
    return ", ".join(parts)


def _second(asked: Extras) -> bool:
    return asked.upscaler_2 != NONE and asked.extras_upscaler_2_visibility > 0


class Room:
    """As many pixels as are worked on at once, of all clients; what is more is a 429."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        if self._taken and self._taken + pixels > self._most:
            raise ApiError(429, "Other pictures are being enlarged: come again.", None, "queue_full", 1)
        self._taken += pixels
        try:
            yield
        finally:
            self._taken -= pixels


def add_extras(routes: APIRouter, engine: Engine, options: ServerOptions, clients: Clients) -> None:
    room = Room(options.limits.queued_pixels)

    @routes.post("/extra-single-image", **described(
        "Enlarge a picture.",
        AS_JSON + f"""-d '{{"image": {PICTURE}, "upscaler_1": "Lanczos"}}' HOST/sdapi/v1/extra-single-image""",
        SingleImage,
    ))  # fmt: skip
    async def single(request: Request) -> JSONResponse:
        source, asked = await one_picture(request, SingleImage)
        (image,) = await made(request, asked, [source], "image")
        return JSONResponse({"html_info": html_info(asked), "image": image})

    @routes.post("/extra-batch-images", **described(
        "Enlarge several pictures.",
        AS_JSON + f"""-d '{{"imageList": [{{"data": {PICTURE}, "name": "fox"}}], "upscaler_1": "Lanczos"}}' """
        "HOST/sdapi/v1/extra-batch-images",
        BatchImages,
    ))  # fmt: skip
    async def batch(request: Request) -> JSONResponse:
        asked = understood(BatchImages, (await read_body(request)).fields, 422)
        images = await made(request, asked, [each.data for each in asked.imageList], "imageList")
        return JSONResponse({"html_info": html_info(asked), "images": images})

    async def made(request: Request, asked: Extras, sources: list[Any], field: str) -> list[str]:
        check_extras(asked)
        if not 1 <= len(sources) <= options.limits.images:
            most = options.limits.images
            raise ApiError(422, f"{field} has {len(sources)} pictures; give from 1 to {most}.", field)
        client = client_of(request.scope)
        chosen = clients.options(client).changed(asked.override_settings or {}, engine, "override_settings")
        data = [await picture_bytes(source, options, field) for source in sources]
        return [await one(each, asked, chosen, field) for each in data]

    async def one(data: bytes, asked: Extras, chosen: Options, field: str) -> str:
        image = await asyncio.to_thread(decoded, data, options, field)
        width, height = scaled_size(image.size, asked)
        if width * height > options.limits.pixels:
            raise ApiError(
                422,
                f"The picture would be {width}x{height} pixels; this server makes {options.limits.pixels:,} at most.",
                "upscaling_resize" if asked.resize_mode == 0 else "upscaling_resize_w",
                "too_large",
            )
        with room.taken(image.width * image.height + width * height):
            return await asyncio.to_thread(written, image, data, asked, chosen)


def written(image: Image.Image, data: bytes, asked: Extras, chosen: Options) -> str:
    """The enlarged picture of `image` in base64, with the settings that stand in its file `data`; blocks."""
    texts = {"parameters": texts_of(data).get("parameters", ""), "postprocessing": told(asked)}
    texts = {name: text for name, text in texts.items() if text}
    format, file = FORMATS[chosen.samples_format], io.BytesIO()
    check_room(f"picture.{format}", texts)
    write_image(enlarged(image, asked), file, PILLOW[format], texts, chosen.jpeg_quality)
    return base64.b64encode(file.getvalue()).decode()


def html_info(asked: Extras) -> str:
    return f"<p>{html.escape(told(asked))}</p>"
