"""Pictures one by one, wherever many of them lie: files, folders, globs, lists of files, tar archives (WebDataset).

Nothing is unpacked to disk, and of an archive only one member is in memory.
"""

import io
import os
import sys
import tarfile
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any

from eyesel.errors import ImageError
from eyesel.images.find import READABLE, meant_by, nothing_given, opening
from eyesel.images.tally import Tally, digest

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBER = 1 << 28  # bytes: more than any picture of MAX_PIXELS needs that a camera or a program writes

Names = str | Path | Iterable[str | Path]


@dataclass(frozen=True)
class Source:
    """A picture that has not been opened: its name, and what `open_image` opens, or why it cannot be."""

    name: str
    content: Any


@dataclass(frozen=True)
class Archive:
    """A tar file, compressed or not; without a path the one that comes over standard input."""

    path: Path | None

    @property
    def name(self) -> str:
        return "standard input" if self.path is None else str(self.path)

    def __iter__(self) -> Iterator[Source]:
        """The pictures in it, in their order, as ARCHIVE/MEMBER; if it breaks off, the last one says so."""
        try:
            with self._opened() as file, tarfile.open(fileobj=file, mode="r|*") as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # it would remember every one
                    hidden = any(part.startswith(".") for part in Path(member.name).parts)
                    if member.isfile() and not hidden and member.name.lower().endswith(tuple(READABLE)):
                        yield self._source(archive, member)
        except (tarfile.TarError, OSError, EOFError, zlib.error, LZMAError) as error:
            reason = getattr(error, "strerror", None) or error
            sentence = f"{self.name} is no tar archive, or is cut short ({reason}): download it again."
            yield Source(self.name, ImageError(sentence))

    def _opened(self) -> IO[bytes]:
        return os.fdopen(os.dup(sys.stdin.fileno()), "rb") if self.path is None else self.path.open("rb")

    def _source(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Source:
        name = member.name if self.path is None else f"{self.path}/{member.name}"
        if member.size > MAX_MEMBER:
            return Source(name, ImageError(f"{name} has {member.size:,} bytes, more than {MAX_MEMBER:,}."))
        file = archive.extractfile(member)
        assert file is not None  # as it is for what is a file
        return Source(name, _Named(file.read(), name))


class _Named(io.BytesIO):
    """Bytes that know what they are called, for messages about them."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


class Found:
    """Files and archives, in order, each once. They are listed anew whenever they are gone through, so that 100,000 of
    them need no memory to speak of.
    """

    def __init__(self, names: Names) -> None:
        """Goes through them a first time."""
        self._names = [names] if isinstance(names, (str, Path)) else list(names)
        self.has_archives = False
        digests = array("Q")
        for item in self._listed():
            digests.append(digest(_name(item)))
            self.has_archives |= isinstance(item, Archive)
        if not digests:
            raise nothing_given()
        self._digests = digests
        self._count = len(Tally(digests))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> "Iterator[Path | Archive]":
        if self._count == len(self._digests):
            return self._listed()
        left = Tally(set(self._digests))
        return (item for item in self._listed() if left.take(_name(item)))

    def _listed(self) -> "Iterator[Path | Archive]":
        for name in self._names:
            with opening(name):
                yield from _sources_of(name)


def _name(item: Path | Archive) -> str:
    return item.name if isinstance(item, Archive) else str(item)


def find_sources(names: Names) -> Found:
    """What names stand for, in the order given, each once.

    Beside the files, folders and globs of `find_images`: `@FILE`, a list of pictures and archives, one a line, relative
    to the list; a tar archive; and `-`, a tar archive over standard input. Raises `ImageError` for a name that stands
    for nothing; of a list, what is not there is found out when it is opened.
    """
    return Found(names)


def each_source(found: Iterable[Path | Archive]) -> Iterator[Source]:
    """The pictures themselves; `ImageError` if there are none after all."""
    some = False
    for item in found:
        for source in item if isinstance(item, Archive) else [Source(str(item), item)]:
            some = True
            yield source
    if not some:
        raise ImageError("there is no picture in the archive: its members have no suffix such as .jpg or .png.")


def _sources_of(name: str | Path) -> Iterator[Path | Archive]:
    text = str(name)
    if text == "-":
        if sys.stdin.isatty():
            raise ImageError("- reads a tar archive from standard input, and that is a keyboard: use a pipe.")
        yield Archive(None)
        return
    listed = text.startswith("@") and not Path(text).exists()
    for path in _lines(Path(text[1:]).expanduser()) if listed else meant_by(name, ARCHIVES):
        yield Archive(path) if path.name.lower().endswith(ARCHIVES) else path


def _lines(path: Path) -> Iterator[Path]:
    if not path.is_file():
        raise ImageError(f"{path} is no list of pictures: give a text file with one path a line.")
    some = False
    with path.open("rb") as file:
        for line in file:
            name = os.fsdecode(line).removesuffix("\n").removesuffix("\r")
            if "\0" in name:
                raise _no_names(path)
            if name.strip():
                some = True
                yield path.parent / Path(name).expanduser()
    if not some:
        raise _no_names(path)


def _no_names(path: Path) -> ImageError:
    return ImageError(f"{path} holds no names of pictures: give a text file with one path a line.")
