"""What a run over many pictures has found so far, on disk, so that a run that was killed can go on.

Beside OUT grows OUT.part, lines of JSON: the settings of the run, then a row for each picture; for embeddings also
OUT.part.f32, the vectors of the rows without an error, raw float32. A row counts when its line has ended and its vector
is whole, and vectors are written first: whatever comes behind the last such row, when a run was killed in the middle of
it, is cut off and done again. OUT itself is written from these, whole, at the end.
"""

import json
import math
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from eyesel.errors import OutputError, SettingError
from eyesel.images import Source, Tally, digest, written_whole

Row = dict[str, Any]


def is_finished(output: Path, resume: bool, force: bool) -> bool:
    """Whether there is nothing left to do; `OutputError` if there is something that nobody allowed to touch."""
    if resume and force:
        raise SettingError("--resume goes on with what --force would replace: choose one of them.")
    if force:
        return False
    if _part(output).exists():
        if not resume:
            raise OutputError(
                f"{_part(output)} is an unfinished run: go on with it (--resume) or start anew (--force)."
            )
        return False
    if output.exists() and not resume:
        raise OutputError(f"{output} exists already: choose another name, or allow it to be replaced (--force).")
    return output.exists()


class Journal(AbstractContextManager["Journal"]):
    """Opened by one run at a time; `count` rows are in it."""

    def __init__(
        self, output: Path, settings: Mapping[str, Any], resume: bool = False, shape: Sequence[int] | None = None
    ) -> None:
        """Begin, or go on: `OutputError` if what is there was begun with other settings.

        `shape` is that of the vector of one picture, if there are vectors.
        """
        self.path, self.vectors_path = _part(output), output.with_name(f"{output.name}.part.f32")
        self.shape = None if shape is None else tuple(shape)
        self._done = array("Q")  # digests of the names
        self.vectors_count = 0
        header = json.loads(json.dumps({"eyesel": 1, "settings": {**settings, "shape": shape}}))
        if resume and self.path.exists():
            self._check(header)
        else:
            with written_whole(self.path) as trial:
                trial.write_bytes(_line(header))
        try:
            if self.shape is not None:
                self.vectors_path.touch()
            self._cut_to_what_is_whole()
            self._rows: IO[bytes] = self.path.open("ab")
            self._vectors: IO[bytes] | None = None if self.shape is None else self.vectors_path.open("ab")
        except OSError as error:
            raise self._unwritable(error) from None

    @property
    def count(self) -> int:
        return len(self._done)

    def append(self, rows: Sequence[Row], vectors: Sequence[np.ndarray] = ()) -> None:
        """Rows, each with the name of its picture as `file`; and a vector for each that has no `error`."""
        try:
            if self._vectors is not None:
                self._vectors.writelines(np.ascontiguousarray(vector, np.float32).data for vector in vectors)
                self._vectors.flush()
            self._rows.write(b"".join(map(_line, rows)))
            self._rows.flush()
        except OSError as error:
            raise self._unwritable(error) from None
        self.vectors_count += len(vectors)
        self._done.extend(digest(row["file"]) for row in rows)

    def remaining(self, sources: Iterable[Source]) -> Iterator[Source]:
        """The sources that have no row yet; of several with one name, as many as have none."""
        done = Tally(self._done)
        return (source for source in sources if not done.take(source.name))

    def rows(self) -> Iterator[Row]:
        with self.path.open("rb") as file:
            next(file)
            yield from map(json.loads, file)

    def names(self) -> "Names":
        """Of the pictures that could be read; read from disk whenever they are gone through."""
        return Names(self)

    def vectors(self) -> np.ndarray:
        """(count of rows without an error, ...) float32, mapped into memory."""
        assert self.shape is not None
        shape = (self.vectors_count, *self.shape)
        if not self.vectors_count:
            return np.empty(shape, np.float32)
        return np.memmap(self.vectors_path, np.float32, "r+", shape=shape)

    def __exit__(self, *_: object) -> None:
        """A journal without a row leaves nothing behind."""
        self._close()
        if not self.count:
            self.remove()

    def remove(self) -> None:
        self._close()
        self.path.unlink(missing_ok=True)
        self.vectors_path.unlink(missing_ok=True)

    def _close(self) -> None:
        self._rows.close()
        if self._vectors is not None:
            self._vectors.close()

    def _check(self, header: Mapping[str, Any]) -> None:
        with self.path.open("rb") as file:
            stored = _parsed(file.readline())
        if stored is None or not isinstance(stored.get("settings"), dict):
            raise OutputError(f"{self.path} is not an unfinished run of eyesel: move it away.")
        before, now = stored["settings"], header["settings"]
        for key in [*now, *before]:
            if before.get(key) != now.get(key):
                was = f"{str(before.get(key))[:80]}, and now it is {str(now.get(key))[:80]}"
                raise OutputError(
                    f"{self.path} was begun with other settings ({key} was {was}): use those, or start anew (--force)."
                )

    def _cut_to_what_is_whole(self) -> None:
        """Read what is done; cut off what comes behind the last row that is whole."""
        size = 0 if self.shape is None else 4 * math.prod(self.shape)
        stored = self.vectors_path.stat().st_size // size if size else 0
        with self.path.open("rb") as file:
            end = len(next(file))
            for line in file:
                row = _parsed(line)
                has_vector = bool(size) and row is not None and "error" not in row
                if row is None or (has_vector and self.vectors_count == stored):
                    break
                self.vectors_count += has_vector
                self._done.append(digest(row["file"]))
                end += len(line)
        os.truncate(self.path, end)
        if size:
            os.truncate(self.vectors_path, size * self.vectors_count)

    def _unwritable(self, error: OSError) -> OutputError:
        reason = error.strerror or error
        return OutputError(f"{self.path} cannot be written ({reason}): make room and go on with --resume.")


@dataclass(frozen=True)
class Names:
    journal: Journal

    def __iter__(self) -> Iterator[str]:
        return (row["file"] for row in self.journal.rows() if "error" not in row)


def _part(output: Path) -> Path:
    return output.with_name(f"{output.name}.part")


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def _parsed(line: bytes) -> Row | None:
    """The row of a line; None if it is not whole."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
