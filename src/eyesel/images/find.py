"""Which picture files a person means by names, folders and globs."""

import glob
from collections.abc import Iterable
from pathlib import Path

from eyesel.errors import ImageError
from eyesel.images.decode import refuse_address

_SUFFIXES = "png apng jpg jpeg jpe jfif mpo gif bmp ppm pgm pbm pnm webp tif tiff jp2 ico tga avif"
READABLE = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())


def find_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The pictures that files, folders and globs stand for, in the order given, each once.

    A file is taken as it is; a folder stands for the pictures in it and below it and a glob (`*`, `?`, `[`, `**`) for
    those that it matches, both sorted, by known suffix, hidden ones left out. Raises `ImageError` for a name that
    stands for nothing.
    """
    found: dict[Path, None] = {}
    for name in [paths] if isinstance(paths, (str, Path)) else paths:
        path = Path(name).expanduser()
        if path.is_file():
            found[path] = None
            continue
        if path.is_dir():
            inside = [file for file in path.rglob("*") if not _hidden(file.relative_to(path))]
        elif glob.has_magic(str(path)):
            # not Path.glob, which refuses absolute patterns
            inside = [Path(file) for file in glob.glob(str(path), recursive=True)]  # noqa: PTH207
        else:
            refuse_address(str(name))
            raise ImageError(f"{name} does not exist: check the path.")
        pictures = sorted(file for file in inside if file.suffix.lower() in READABLE and file.is_file())
        if not pictures:
            known = ", ".join(sorted(READABLE))
            raise ImageError(f"there is no picture in {name}: give a file, folder or glob of {known} files.")
        found.update(dict.fromkeys(pictures))
    if not found:
        raise ImageError("no picture was given: name a file, a folder or a glob.")
    return list(found)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
