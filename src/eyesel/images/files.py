"""Picture files with metadata, written whole or not at all."""

import os
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from PIL import Image, PngImagePlugin

from eyesel.errors import OutputError
from eyesel.images.decode import damaged, identified, picture_file, quiet
from eyesel.images.exif import MOST_BYTES, exif_block, exif_texts

WRITABLE = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


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

    PNG keeps the metadata as text chunks, one a key, JPEG and WebP in EXIF; `read_metadata` gives it back. The file is
    written under another name in the same folder and renamed, so no reader ever sees half a picture. Raises
    `OutputError`.
    """
    check_room(path, metadata or {})
    with written_whole(path, WRITABLE) as trial, trial.open("xb") as file:
        write_image(image, file, WRITABLE[Path(path).suffix.lower()], metadata)


def write_image(
    image: Image.Image, file: IO[bytes], format: str, metadata: Mapping[str, str] | None = None, quality: int = 95
) -> None:
    """The same into an open file. `format` is one of those of `WRITABLE`; `quality`, 0 to 100, is not for PNG."""
    options: dict[str, Any] = {}
    if format != "PNG":
        options["quality"] = quality
        image = image.convert("RGB") if image.mode not in ("RGB", "L") else image
    if metadata and format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        for key, value in metadata.items():
            options["pnginfo"].add_text(key, value)  # tEXt, or iTXt where Latin-1 is not enough
    elif metadata:
        options["exif"] = exif_block(metadata)
    image.save(file, format=format, **options)


def check_room(path: str | Path, metadata: Mapping[str, str], spare: int = 0) -> None:
    """Refuse metadata that does not fit into a picture of that name, with room for `spare` bytes more."""
    if metadata and WRITABLE.get(Path(path).suffix.lower()) == "JPEG":
        size = len(exif_block(metadata)) + spare
        if size > MOST_BYTES:
            raise OutputError(
                f"{path} would need {size:,} bytes for its prompt and settings, and the EXIF of a JPEG has "
                f"{MOST_BYTES:,}: write {Path(path).stem}.png or {Path(path).stem}.webp."
            )


def read_metadata(path: str | Path) -> dict[str, str]:
    """The texts that `save_image` (or another program) stored in a picture: PNG's text chunks, and those in EXIF.

    What AUTOMATIC1111 writes is called "parameters" in both. Raises `ImageError`.
    """
    name = os.fspath(path)
    with picture_file(name) as file:
        return texts_in(file, name)


def texts_in(file: IO[bytes], name: str) -> dict[str, str]:
    """The same of an open file, called `name` where it cannot be read."""
    image = identified(file, name)
    try:
        with quiet():
            texts = exif_texts(image)
            if isinstance(image, PngImagePlugin.PngImageFile):  # reads the chunks after the pixels, too
                texts |= {key: str(value) for key, value in image.text.items()}
    except Exception as error:
        raise damaged(name, error) from error
    return texts


def _beside(path: Path) -> Path:
    """A new name in the same folder, and so on the same file system."""
    return path.with_name(f".eyesel-{secrets.token_hex(8)}.tmp")


def _unwritable(path: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"{path} cannot be written ({reason}): choose another place.")
