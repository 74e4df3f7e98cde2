"""Picture files with metadata, written whole or not at all."""

import json
import os
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from eyesel.errors import ImageError, OutputError
from eyesel.images.decode import FORMATS, damaged, quiet

WRITABLE = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_UNICODE = b"UNICODE\0"  # how EXIF marks a UserComment in UTF-16


def check_writable(path: str | Path, suffixes: Collection[str] | None = None) -> Path:
    """`path`, if a file with one of `suffixes` (default: any) can be written there, else `OutputError`.

    For use before long work starts; leaves nothing behind.
    """
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            raise OutputError(f"{path} is a folder: name a file in it.")
        if suffixes is not None and path.suffix.lower() not in suffixes:
            known = ", ".join(sorted(suffixes))
            raise OutputError(f"{path} has the suffix {path.suffix!r}, which cannot be written here: use {known}.")
        if not path.parent.is_dir():
            raise OutputError(
                f"the folder {path.parent} does not exist: create it or choose another place for {path.name}."
            )
        if path.exists() and not os.access(path, os.W_OK):
            raise OutputError(f"{path} is write-protected: choose another name.")
        trial = _beside(path)
        trial.touch(exist_ok=False)
        trial.unlink()
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from None
    return path


@contextmanager
def written_whole(path: str | Path, suffixes: Collection[str] | None = None) -> Iterator[Path]:
    """A new name beside `path` to write to, which becomes `path` when the block ends well and is gone if it does not.

    So nobody ever sees half a file, and what was there before stays until then. Raises `OutputError`.
    """
    path = check_writable(path, suffixes)
    trial = _beside(path)
    try:
        yield trial
        trial.replace(path)
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from None
    finally:
        trial.unlink(missing_ok=True)


def save_image(image: Image.Image, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a picture as PNG, JPEG or WebP (quality 95) by suffix, all of it or nothing.

    PNG keeps the metadata as text chunks, one a key; JPEG and WebP keep it as JSON in the EXIF user comment;
    `read_metadata` gives it back. The file is written under another name in the same folder and renamed, so no reader
    ever sees half a picture. Raises `OutputError`.
    """
    suffix = Path(path).suffix.lower()
    options: dict[str, Any] = {}
    if suffix != ".png":
        options["quality"] = 95
        image = image.convert("RGB") if image.mode not in ("RGB", "L") else image
    with written_whole(path, WRITABLE) as trial:
        if metadata and suffix == ".png":
            options["pnginfo"] = PngImagePlugin.PngInfo()
            for key, value in metadata.items():
                options["pnginfo"].add_text(key, value)  # tEXt, or iTXt where Latin-1 is not enough
        elif metadata:
            exif = Image.Exif()
            comment = _UNICODE + json.dumps(dict(metadata), ensure_ascii=False).encode("utf-16-be")
            exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
            options["exif"] = exif
        with trial.open("xb") as file:
            image.save(file, format=WRITABLE[suffix], **options)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The texts that `save_image` (or another program) stored in a picture: PNG text chunks, or the EXIF user comment.

    A comment that is not eyesel's is given as "parameters", the name under which AUTOMATIC1111 keeps it in PNG files.
    """
    name = str(path)
    try:
        with quiet(), Image.open(Path(path).expanduser(), formats=FORMATS) as image:
            if isinstance(image, PngImagePlugin.PngImageFile):
                return {key: str(value) for key, value in image.text.items()}  # reads the chunks after the pixels, too
            comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist: check the path.") from None
    except Exception as error:
        raise damaged(name, error) from error
    return _parse_comment(comment)


def _parse_comment(comment: bytes | str) -> dict[str, str]:
    if isinstance(comment, bytes):
        unicode = comment.startswith(_UNICODE)
        comment = comment[8:].decode("utf-16-be" if unicode else "utf-8", errors="replace")
    try:
        texts = json.loads(comment)
    except ValueError:
        return {"parameters": comment} if comment.strip("\0 ") else {}
    return {key: str(value) for key, value in texts.items()} if isinstance(texts, dict) else {"parameters": comment}


def _beside(path: Path) -> Path:
    """A new name in the same folder, and so on the same file system."""
    return path.with_name(f".eyesel-{secrets.token_hex(8)}.tmp")


def _unwritable(path: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"{path} cannot be written ({reason}): choose another place.")
