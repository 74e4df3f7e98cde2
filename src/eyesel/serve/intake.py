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
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
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
from eyesel.serve.held import held
from eyesel.serve.options import ServerOptions

_FORM, _ADDRESS_FORM = "multipart/form-data", "application/x-www-form-urlencoded"
_FETCHERS = ThreadPoolExecutor(16, "eyesel-fetch")  # of their own: who waits for others keeps nobody waiting
_LONG = 2**20  # bytes of JSON that take long enough to be read beside the event loop
MOST_PARTS = 200_000  # of JSON
_VAST = re.compile(r"[eE]\+?\d{3}|\d{309}")  # what is in all numbers that are infinite as floats
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
    _check_coding(request.headers.get("content-encoding", ""))
    query = _collected(request.query_params.multi_items())
    data = b"" if kind == _FORM else await request.body()
    if looks_like_picture(data):  # whatever it says: curl --data-binary calls it a form
        return Body(query, {picture: [data]}, texts=True)
    if kind in (_FORM, _ADDRESS_FORM):
        body = await _form(request)
        return Body({**query, **body.fields}, body.files, texts=True)
    if kind.endswith("json") or data[:64].lstrip()[:1] in (b"{", b"["):
        said = _json(data) if len(data) < _LONG else await asyncio.to_thread(_json, data)
        return Body({**query, **said})
    return Body(query, {picture: [data]} if data else {}, texts=True)


def _check_coding(coding: str) -> None:
    """Bodies that are to be unpacked are not: a few bytes could become more than there is memory for."""
    if coding.strip().lower() not in ("", "identity"):
        raise ApiError(
            415, f"The body is in the coding {coding[:40]!r}: send it as it is.", "Content-Encoding", "content_encoding"
        )


def _collected(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """What is said once as it is; what is said several times, or by a name with `[]`, as a list."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        plain = name.removesuffix("[]")
        if plain in fields:
            before = fields[plain]
            fields[plain] = [*(before if isinstance(before, list) else [before]), value]
        else:
            fields[plain] = [value] if plain != name else value
    return fields


def looks_like_picture(data: bytes) -> bool:
    """By its first bytes."""
    return data.startswith(_PICTURES) or data[4:12] in (b"ftypavif", b"ftypavis")


async def _form(request: Request) -> Body:
    body, texts = Body(texts=True), []
    try:
        form = await request.form(max_files=100, max_fields=200, max_part_size=2**26)
    except HTTPException as error:
        raise ApiError(400, f"The form cannot be read: {error.detail}", None, "invalid_form") from None
    async with _closing(form):
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                body.files.setdefault(name.removesuffix("[]"), []).append(await value.read())
            else:
                texts.append((name, value))
    body.fields = _collected(texts)
    return body


class _closing:
    def __init__(self, form: Any) -> None:
        self._form = form

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None:
        await self._form.close()


def _json(data: bytes) -> dict[str, Any]:
    try:
        if data.count(b"[") + data.count(b"{") > MOST_PARTS:  # each takes twenty times the memory that it takes here
            raise ValueError(f"more than {MOST_PARTS:,} lists and objects")
        value = strict_json(data)
        if b"\\ud" in data.lower():  # half a character of two, which no text can be
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # not UTF-8, too
        raise ApiError(400, f"The body is no JSON ({str(error)[:200]}).", None, "invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, "The body must be a JSON object, with names and values.", None, "invalid_json")
    return value


def strict_json(data: bytes | str) -> Any:
    """JSON in UTF-8, with finite numbers alone, and with each name once in an object. Raises `ValueError`."""
    text = data if isinstance(data, str) else data.decode("utf-8-sig")
    real = _finite if _VAST.search(text) else None  # a call for each of millions of pixels takes seconds
    return json.loads(text, parse_constant=_finite, parse_float=real, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r:.100} is said more than once")
        found[name] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number of JSON")
    return number


async def picture(source: Any, options: ServerOptions, field: str = "image", mode: Mode = "RGB") -> Image.Image:
    """The picture in bytes, in base64 with or without `data:`, or where URLs are allowed, at an address."""
    data = await picture_bytes(source, options, field)
    return await asyncio.to_thread(kept, data, options, field, mode)


async def pictures_bytes(sources: list[Any], options: ServerOptions, field: str = "image") -> list[bytes]:
    """Of one request, and not decoded yet; together they have no more bytes than a request may."""
    check_number(len(sources), options, field)
    found: list[bytes] = []
    for source in sources:
        left = options.limits.body - sum(map(len, found))
        found.append(await picture_bytes(source, options, field, left))
    return found


def check_number(number: int, options: ServerOptions, field: str = "image") -> None:
    """How many pictures a request may have."""
    most = options.limits.images
    if not 1 <= number <= most:
        raise ApiError(400, f"There are {number} pictures; give from 1 to {most}.", field, "invalid_request")


async def picture_bytes(source: Any, options: ServerOptions, field: str = "image", most: int | None = None) -> bytes:
    """The same, not decoded yet; from an address, `most` bytes at most."""
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
        most = options.limits.body if most is None else most
        return await asyncio.get_running_loop().run_in_executor(_FETCHERS, fetch, source, most, field)
    text = _DATA_URL.sub("", source[:100]) + source[100:]
    try:
        return base64.b64decode("".join(text.split()) if re.search(r"\s", text) else text, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{field} is no picture in base64.", field, "invalid_base64") from None


def check_header(data: bytes, options: ServerOptions, field: str = "image") -> int:
    """The pixels of a picture by its header; refuses those that are too many. Blocks a little."""
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
    return width * height


def decoded(data: bytes, options: ServerOptions, field: str = "image", mode: Mode = "RGB") -> Image.Image:
    """For one use, by a thread of a few. Blocks."""
    check_header(data, options, field)
    try:
        return open_image(data, mode)
    except EyeselError as error:
        wrong = bad_input(error)
        raise ApiError(400, wrong.message, field, "invalid_image") from None


def kept(data: bytes, options: ServerOptions, field: str = "image", mode: Mode = "RGB") -> Image.Image:
    """The same for a request or a job that holds it while it waits; raises a 429 where there is no room. Blocks."""
    pixels = check_header(data, options, field)
    return held(pixels, options.limits.held_pixels, lambda: decoded(data, options, field, mode))
