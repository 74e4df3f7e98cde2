"""What comes in: pictures and parameters as forms, as JSON, or as the bytes of a picture alone.

The media type is a hint: bytes without one, or with a wrong one, are looked at. Nothing is decoded before its header
has said that it is not too large, and nothing is decoded in the event loop.
"""

import asyncio
import base64
import binascii
import io
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from eyesel.errors import EyeselError
from eyesel.images import open_image
from eyesel.images.decode import Mode, identified
from eyesel.serve.errors import ApiError, bad_input
from eyesel.serve.fetch import fetch
from eyesel.serve.options import ServerOptions

_FORM, _ADDRESS_FORM = "multipart/form-data", "application/x-www-form-urlencoded"
_DATA_URL = re.compile(r"data:[\w.+/-]*;base64,", re.IGNORECASE)
# How files of pictures begin
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\x00", b"MM\x00*", b"\x00\x00\x00\x0cjP  ")


@dataclass
class Body:
    """The parameters of a request, and its pictures as bytes by their field, without `[]` in its name."""

    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)
    texts: bool = False  # parameters are texts, as forms and addresses have them


async def read_body(request: Request, picture: str = "image") -> Body:
    """A request of any of the three kinds. The bytes of a picture alone are filed under `picture`.

    Parameters in the address count, too, where the body does not say otherwise. Raises `ApiError`.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    query = dict(request.query_params)
    data = b"" if kind == _FORM else await request.body()
    if looks_like_picture(data):  # whatever it says: curl --data-binary calls it a form
        return Body(query, {picture: [data]}, texts=True)
    if kind in (_FORM, _ADDRESS_FORM):
        body = await _form(request)
        return Body({**query, **body.fields}, body.files, texts=True)
    if kind.endswith("json") or data.lstrip()[:1] in (b"{", b"["):
        return Body({**query, **_json(data)})
    return Body(query, {picture: [data]} if data else {}, texts=True)


def looks_like_picture(data: bytes) -> bool:
    """By its first bytes."""
    return data.startswith(_PICTURES) or data[4:12] in (b"ftypavif", b"ftypavis")


async def _form(request: Request) -> Body:
    body = Body(texts=True)
    try:
        form = await request.form(max_files=100, max_fields=200, max_part_size=2**26)
    except HTTPException as error:
        raise ApiError(400, f"The form cannot be read: {error.detail}", None, "invalid_form") from None
    async with _closing(form):
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                body.files.setdefault(name.removesuffix("[]"), []).append(await value.read())
            elif name.endswith("[]"):
                body.fields.setdefault(name.removesuffix("[]"), []).append(value)
            else:
                body.fields[name] = value
    return body


class _closing:
    def __init__(self, form: Any) -> None:
        self._form = form

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None:
        await self._form.close()


def _json(data: bytes) -> dict[str, Any]:
    try:
        value = strict_json(data)
        if b"\\ud" in data.lower():  # half a character of two, which no text can be
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # not UTF-8, too
        raise ApiError(400, f"The body is no JSON ({str(error)[:200]}).", None, "invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, "The body must be a JSON object, with names and values.", None, "invalid_json")
    return value


def strict_json(data: bytes | str) -> Any:
    """JSON, with finite numbers alone. Raises `ValueError`."""
    return json.loads(data, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number of JSON")
    return number


async def picture(source: Any, options: ServerOptions, field: str = "image", mode: Mode = "RGB") -> Image.Image:
    """The picture in bytes, in base64 with or without `data:`, or where URLs are allowed, at an address."""
    data = await picture_bytes(source, options, field)
    return await asyncio.to_thread(decoded, data, options, field, mode)


async def pictures(sources: list[Any], options: ServerOptions, field: str = "image") -> list[Image.Image]:
    return list(await asyncio.gather(*(picture(source, options, field) for source in sources)))


async def picture_bytes(source: Any, options: ServerOptions, field: str = "image") -> bytes:
    """The same, not decoded yet."""
    if isinstance(source, bytes):
        return source
    if not isinstance(source, str):
        raise ApiError(
            422, f"{field} is a {type(source).__name__}; it must be a picture in base64.", field, "invalid_type"
        )
    if re.match(r"https?://", source, re.IGNORECASE):
        if not options.allow_urls:
            raise ApiError(
                400,
                f"{field} is a web address, and this server fetches none: send the picture itself.",
                field,
                "urls_not_allowed",
            )
        return await asyncio.to_thread(fetch, source, options.limits.body, field)
    text = _DATA_URL.sub("", source[:100]) + source[100:]
    try:
        return base64.b64decode("".join(text.split()) if re.search(r"\s", text) else text, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{field} is no picture in base64.", field, "invalid_base64") from None


def check_header(data: bytes, options: ServerOptions, field: str = "image") -> None:
    """Refuse a picture whose header says that it is too large; blocks a little."""
    try:
        with identified(io.BytesIO(data), f"the {len(data)} bytes given") as image:
            width, height = image.size
    except EyeselError as error:
        raise ApiError(400, str(error), field, "invalid_image") from None
    if width * height > options.limits.pixels:
        raise ApiError(
            413,
            f"{field} has {width}x{height} pixels; this server takes {options.limits.pixels:,} at most.",
            field,
            "image_too_large",
        )


def decoded(data: bytes, options: ServerOptions, field: str = "image", mode: Mode = "RGB") -> Image.Image:
    """Blocks."""
    check_header(data, options, field)
    try:
        return open_image(data, mode)
    except EyeselError as error:
        wrong = bad_input(error)
        raise ApiError(400, wrong.message, field, "invalid_image") from None
