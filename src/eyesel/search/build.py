"""Bring an index up to date with a folder, embedding only what is new.

A file whose path, size and time are known is left alone; of the others the bytes are hashed, and one whose hash is
known keeps its vector under its new path. A label stays where the folder tells none, as that of a folder below the one
that was indexed before. Each portion is committed by itself, so that a build that was stopped goes
on where it was; rows of files that are gone are taken out last, when whoever moved them has their vectors.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from eyesel.classifier import ImageClassifier
from eyesel.errors import ImageError
from eyesel.images import find_images, open_image
from eyesel.images.labels import folder_labels
from eyesel.search.index import Index, Row

PORTION = 256  # pictures that are committed together


@dataclass
class Report:
    """What a build did, in numbers of files; `unreadable` says why, file by file."""

    unchanged: int = 0
    added: int = 0
    changed: int = 0
    moved: int = 0
    copied: int = 0
    touched: int = 0  # only their time or label is another
    deleted: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


def build(
    index: Index,
    classifier: ImageClassifier,
    folder: str | Path,
    batch_size: int = 8,
    portion: int = PORTION,
    advance: Callable[[], None] = lambda: None,
) -> Report:
    """Make the rows of the files in and below `folder` agree with the disk; rows of other places stay.

    `advance` is called once for every file. Raises `ImageError` if the folder holds no picture.
    """
    root = Path(folder).expanduser().resolve()
    files = find_images(root)
    update = _Update(index, classifier, batch_size, advance)
    pending = [file for file in _files(root, files, update.known) if not update.is_known(file)]
    for start in range(0, len(pending), portion):
        update.put(pending[start : start + portion])
    below = {path for path in update.known if Path(path).is_relative_to(root)}
    gone = below - {str(path) for path in files}
    index.drop(sorted(gone | (update.report.unreadable.keys() & update.known.keys())))
    update.report.deleted = len(gone - update.moved_from)
    if pending or gone:
        index.tidy()
    return update.report


@dataclass(frozen=True)
class _File:
    path: Path
    mtime: int  # nanoseconds
    size: int  # bytes
    label: str | None


def _files(root: Path, files: Sequence[Path], known: Mapping[str, Row]) -> list[_File]:
    found = []
    for path, told in folder_labels(root, files).items():
        row, state = known.get(str(path)), path.stat()
        label = row.label if told is None and row is not None else told
        found.append(_File(path, state.st_mtime_ns, state.st_size, label))
    return found


class _Update:
    """One build: what was known before it, and what it did."""

    def __init__(self, index: Index, classifier: ImageClassifier, batch_size: int, advance: Callable[[], None]) -> None:
        self.index, self.classifier = index, classifier
        self.batch_size, self.advance = batch_size, advance
        self.known = {row.path: row for row in index.rows()}
        self.same = defaultdict(list)  # rows by hash
        for row in self.known.values():
            self.same[row.sha256].append(row)
        self.moved_from: set[str] = set()
        self.report = Report()

    def is_known(self, file: _File) -> bool:
        row = self.known.get(str(file.path))
        same = row is not None and (row.mtime, row.size, row.label) == (file.mtime, file.size, file.label)
        if same:
            self.report.unchanged += 1
            self.advance()
        return same

    def put(self, files: Sequence[_File]) -> None:
        """Commit the rows of these files."""
        hashes = {file: _sha256(file.path) for file in files}
        stored = self.index.vectors_by_hash(set(hashes.values()) & self.same.keys())
        rows, vectors, fresh = [], [], []
        for file, digest in hashes.items():
            if digest in stored:
                row = self._twin(file, digest)
                rows.append(_row(file, digest, (row.width, row.height)))
                vectors.append(stored[digest])
                self.advance()
            else:
                fresh.append(file)
        for start in range(0, len(fresh), self.batch_size):
            pictures = self._opened(fresh[start : start + self.batch_size])
            if pictures:
                rows += [_row(file, hashes[file], picture.size) for file, picture in pictures.items()]
                pool = self.index.identity.pool
                vectors += [*self.classifier.embed([*pictures.values()], pool, batch_size=self.batch_size)]
        self.index.put(rows, vectors)

    def _twin(self, file: _File, digest: str) -> Row:
        """The row of the same bytes that this file continues: its own, that of a file that is gone, or any."""
        rows, path = self.same[digest], str(file.path)
        own = [row for row in rows if row.path == path]
        gone = [row for row in rows if row.path not in self.moved_from and not Path(row.path).exists()]
        if own:
            self.report.touched += 1
        elif gone:
            self.report.moved += 1
            self.moved_from.add(gone[0].path)
        else:
            self.report.copied += 1
        return [*own, *gone, *rows][0]

    def _opened(self, files: Sequence[_File]) -> dict[_File, Image.Image]:
        pictures = {}
        for file in files:
            try:
                pictures[file] = open_image(file.path)
            except ImageError as error:
                self.report.unreadable[str(file.path)] = str(error)
            else:
                changed = str(file.path) in self.known
                self.report.changed += changed
                self.report.added += not changed
            self.advance()
        return pictures


def _row(file: _File, digest: str, size: tuple[int, int]) -> Row:
    return Row(str(file.path), file.mtime, file.size, digest, file.label, *size)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
