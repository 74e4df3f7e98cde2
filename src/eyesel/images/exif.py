"""Texts in EXIF: how JPEG and WebP keep what PNG keeps in text chunks.

AUTOMATIC1111 writes its "parameters" with piexif into UserComment, and reads them there: "UNICODE" and a null character
before the text in UTF-16, big-endian, of the type UNDEFINED (Pillow would write BYTE, which piexif cannot read). All
other texts stand together as JSON in XPComment, which tools carry along and no program takes for a caption.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import ExifTags, Image

PARAMETERS = "parameters"
MOST_BYTES = 65_533  # of EXIF in a JPEG; a WebP has room for any
_UNICODE = b"UNICODE\0"
_BYTE, _LONG, _UNDEFINED = 1, 4, 7
_HEADER = b"MM\0*" + struct.pack(">I", 8)  # big-endian TIFF, whose first directory follows


def exif_block(texts: Mapping[str, str]) -> bytes:
    """The EXIF that holds `texts`."""
    rest = {name: text for name, text in texts.items() if name != PARAMETERS}
    others = (json.dumps(rest, ensure_ascii=False) + "\0").encode("utf-16-le", "surrogatepass") if rest else b""
    comment = _UNICODE + texts.get(PARAMETERS, "").encode("utf-16-be", "surrogatepass")
    inner = len(_HEADER) + _length(2) + len(others)  # where the second directory stands
    first = [(ExifTags.IFD.Exif, _LONG, struct.pack(">I", inner)), (ExifTags.Base.XPComment, _BYTE, others)]
    second = [(ExifTags.Base.UserComment, _UNDEFINED, comment)]
    return b"Exif\0\0" + _HEADER + _directory(first, len(_HEADER)) + _directory(second, inner)


def _length(entries: int) -> int:
    return 2 + 12 * entries + 4


def _directory(entries: Sequence[tuple[int, int, bytes]], at: int) -> bytes:
    """A TIFF directory that stands at the byte `at`, and behind it the values that are too long for it."""
    table, values = struct.pack(">H", len(entries)), b""
    for tag, kind, value in entries:
        count = 1 if kind == _LONG else len(value)
        table += struct.pack(">HHI", tag, kind, count)
        if len(value) <= 4:
            table += value.ljust(4, b"\0")
        else:
            table += struct.pack(">I", at + _length(len(entries)) + len(values))
            values += value
    return table + struct.pack(">I", 0) + values


def exif_texts(image: Image.Image) -> dict[str, str]:
    """The texts in the EXIF of an opened picture, of eyesel and of other programs."""
    exif = image.getexif()
    texts = _of_comfyui(exif)
    comment = _comment(exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b""))
    first_form = _json_texts(comment)  # of eyesel, which kept all of its texts in the comment
    if comment.strip():
        texts |= first_form if PARAMETERS in first_form else {PARAMETERS: comment}
    others = exif.get(ExifTags.Base.XPComment, b"")
    if isinstance(others, bytes):
        texts |= _json_texts(others.decode("utf-16-le", errors="replace").rstrip("\0"))
    return texts


def _comment(value: Any) -> str:
    if not isinstance(value, bytes):
        return str(value)
    body = value[8:]
    if not value.startswith(_UNICODE):
        return body.decode("utf-8", errors="replace").strip("\0")
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        order = "utf-16"
    else:  # the order of the bytes is nowhere said; in such a text most zeros are the upper halves of letters
        order = "utf-16-be" if body[::2].count(0) >= body[1::2].count(0) else "utf-16-le"
    return body.decode(order, errors="replace").strip("\0")


def _json_texts(text: str) -> dict[str, str]:
    """The texts of a JSON object; none of anything else."""
    try:
        texts = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {name: text for name, text in texts.items() if isinstance(text, str)} if isinstance(texts, dict) else {}


def _of_comfyui(exif: Image.Exif) -> dict[str, str]:
    """ComfyUI puts "prompt:{...}" and "workflow:{...}" into whatever text fields come first."""
    texts = {}
    for value in exif.values():
        if isinstance(value, str):
            name, _, text = value.partition(":")
            if name.lower() in ("prompt", "workflow"):
                texts[name.lower()] = text.strip("\0")
    return texts
