"""Checkpoints of a run on disk: a folder counts when its mark is there and names every file at its full length.

A checkpoint is written under another name, marked, and renamed. Whatever moment a process is killed in, the last one
that counts is whole.
"""

import json
import os
import re
import shutil
from pathlib import Path

from eyesel.weights.save import write_json

MARK = "complete.json"
STAGING = ".saving"
_NAME = re.compile(r"checkpoint-(\d+)")


def publish(staged: Path, final: Path) -> None:
    """Mark a folder that is written to the end, and give it its name."""
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    for path in files:
        _flush(path)
    write_json(staged / MARK, {str(path.relative_to(staged)): path.stat().st_size for path in files})
    _flush(staged / MARK)
    shutil.rmtree(final, ignore_errors=True)  # one without a mark
    staged.rename(final)


def complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / MARK).read_text(encoding="utf-8"))
        return bool(sizes) and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def checkpoints(output: Path) -> list[Path]:
    """Those that are complete, the oldest first."""
    numbered = [(int(match[1]), path) for path in output.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered) if complete(path)]


def last_checkpoint(output: Path) -> Path | None:
    return next(reversed(checkpoints(output)), None)


def prune(output: Path, most: int | None, best: Path | None) -> None:
    """Remove the oldest beyond `most`, but never the last, nor the best."""
    there = checkpoints(output)
    if not most or most < 1:
        return
    spare = [path for path in there[:-1] if best is None or path.name != best.name]
    for path in spare[: max(len(there) - most, 0)]:
        (path / MARK).unlink()  # from here on it does not count, however far the removal comes
        shutil.rmtree(path, ignore_errors=True)


def remove_unfinished(output: Path) -> None:
    shutil.rmtree(output / STAGING, ignore_errors=True)
    for path in output.glob("checkpoint-*"):
        if _NAME.fullmatch(path.name) and not complete(path):
            shutil.rmtree(path)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
