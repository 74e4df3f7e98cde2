"""Which picture files a person means by names, folders and globs."""

import glob
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TypeVar

from eyesel.errors import ImageError
from eyesel.images.decode import refuse_address

T = TypeVar("T")

_SUFFIXES = "png apng jpg jpeg jpe jfif mpo gif bmp ppm pgm pbm pnm webp tif tiff jp2 ico tga avif"
READABLE = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())


def find_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The pictures that files, folders and globs stand for, in the order given, each once.

    A file is taken as it is; a folder stands for the pictures in it and below it and a glob (`*`, `?`, `[`, `**`) for
    those that it matches, both sorted, by known suffix, hidden ones left out. Raises `ImageError` for a name that
    stands for nothing.
    """
    return each_once(paths, meant_by)


def each_once(names: str | Path | Iterable[str | Path], meaning: Callable[[str | Path], Iterable[T]]) -> list[T]:
    """What the names stand for, in their order; what cannot be opened is an `ImageError`."""
    found: dict[T, None] = {}
    for name in [names] if isinstance(names, (str, Path)) else names:
        try:
            found.update(dict.fromkeys(meaning(name)))
        except (OSError, ValueError) as error:  # a name that is too long, a folder that may not be read
            reason = getattr(error, "strerror", None) or error
            raise ImageError(f"{str(name)[:200]!r} cannot be opened ({reason}): check the path.") from None
    if not found:
        raise ImageError("no picture was given: name a file, a folder or a glob.")
    return list(found)


def meant_by(name: str | Path, in_globs: Collection[str] = ()) -> list[Path]:
    """What one name stands for, by the suffixes of pictures; globs match files with the suffixes `in_globs`, too."""
    path, suffixes = Path(name).expanduser(), tuple(READABLE)
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = [file for file in path.rglob("*") if not _hidden(file.relative_to(path))]
    elif glob.has_magic(str(path)):
        # not Path.glob, which refuses absolute patterns
        inside = [Path(file) for file in glob.glob(str(path), recursive=True)]  # noqa: PTH207
        suffixes += tuple(in_globs)
    else:
        refuse_address(str(name))
        what = "is a pipe or a device, not a picture file" if path.exists() else "does not exist"
        raise ImageError(f"{name} {what}: check the path.")
    pictures = sorted(file for file in inside if file.name.lower().endswith(suffixes) and file.is_file())
    if not pictures:
        raise ImageError(f"there is no picture in {name}: give PNG, JPEG, WebP, GIF, BMP or TIFF files.")
    return pictures


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
