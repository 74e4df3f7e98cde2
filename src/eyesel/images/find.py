"""Which picture files a person means by names, folders and globs."""

import glob
import os
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from eyesel.errors import ImageError
from eyesel.images.decode import refuse_address

_SUFFIXES = "png apng jpg jpeg jpe jfif mpo gif bmp ppm pgm pbm pnm webp tif tiff jp2 ico tga avif"
READABLE = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())


def find_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The pictures that files, folders and globs stand for, in the order given, each once.

    A file is taken as it is; a folder stands for the pictures in it and below it and a glob (`*`, `?`, `[`, `**`) for
    those that it matches, both sorted, by known suffix, hidden ones left out. Raises `ImageError` for a name that
    stands for nothing; a folder in a folder that may not be read is left out with a warning.
    """
    found: dict[Path, None] = {}
    for name in [paths] if isinstance(paths, (str, Path)) else paths:
        with opening(name):
            found.update(dict.fromkeys(meant_by(name)))
    if not found:
        raise nothing_given()
    return list(found)


def nothing_given() -> ImageError:
    return ImageError("no picture was given: name a file, a folder or a glob.")


@contextmanager
def opening(name: str | Path) -> Iterator[None]:
    """What the system says of a name that cannot be opened (too long, no permission) becomes an `ImageError`."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{str(name)[:200]!r} cannot be opened ({reason}): check the path.") from None


def meant_by(name: str | Path, in_globs: Collection[str] = ()) -> Iterator[Path]:
    """What one name stands for, by the suffixes of pictures; globs match files with the suffixes `in_globs`, too."""
    path, suffixes = Path(name).expanduser(), tuple(READABLE)
    if path.is_file():
        yield path
        return
    if path.is_dir():
        pictures = _below(path, suffixes)
    elif glob.has_magic(str(path)):
        pictures = _matching(str(path), suffixes + tuple(in_globs))
    else:
        refuse_address(str(name))
        what = "is a pipe or a device, not a picture file" if path.exists() else "does not exist"
        raise ImageError(f"{name} {what}: check the path.")
    some = False
    for picture in pictures:
        some = True
        yield picture
    if not some:
        raise ImageError(f"there is no picture in {name}: give PNG, JPEG, WebP, GIF, BMP or TIFF files.")


def _below(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """The pictures in and below a folder, sorted. Names are held of those folders only that are being read."""
    open_folders = [(folder, _names(folder, suffixes))]
    while open_folders:
        place, names = open_folders[-1]
        if not names:
            open_folders.pop()
        elif (name := names.pop()).endswith("/"):
            inner = place / name
            try:
                open_folders.append((inner, _names(inner, suffixes)))
            except OSError as error:
                warnings.warn(f"{inner} cannot be read ({error.strerror}) and is left out.", stacklevel=2)
        else:
            yield place / name


def _names(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Those of the pictures and, with a slash, of the folders in a folder, the last one first; no hidden ones."""
    with os.scandir(folder) as entries:
        names = [
            f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and (entry.is_dir(follow_symlinks=False) or (entry.name.lower().endswith(suffixes) and _is_file(entry)))
        ]
    names.sort(key=lambda name: name.removesuffix("/"), reverse=True)
    return names


def _is_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False) or (entry.is_symlink() and Path(entry.path).is_file())


def _matching(pattern: str, suffixes: tuple[str, ...]) -> Iterator[Path]:
    # not Path.glob, which refuses absolute patterns
    found = glob.iglob(pattern, recursive=True)  # noqa: PTH207
    names = [name for name in found if name.lower().endswith(suffixes) and Path(name).is_file()]
    names.sort(key=lambda name: name.replace(os.sep, "\0"), reverse=True)  # in the order of paths, as in folders
    while names:
        yield Path(names.pop())
