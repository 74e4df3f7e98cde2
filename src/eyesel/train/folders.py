"""How pictures lie in a folder: its splits, its class folders, and what `metadata.jsonl` or `metadata.csv` say."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eyesel.errors import ImageError
from eyesel.images import READABLE, find_images

# Names of folders (and of Parquet files, and of splits on the hub), as `datasets` knows them.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def split_of(name: str) -> str | None:
    """Which split a name stands for."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def split_folders(folder: Path) -> dict[str, Path]:
    """train, validation and test below `folder`, those that are there; without any, all of it is `train`.

    Raises `ImageError` where it cannot be told what belongs to which: a split twice, one beside pictures that are in
    none, others without one to train on. A folder train that has nothing but pictures in it is no split beside folders
    of other names, but a class like them (trains beside planes).
    """
    found: dict[str, Path] = {}
    others = []
    for path in (path for path in _visible(folder) if path.is_dir()):
        split = split_of(path.name)
        if split is None:
            if holds_pictures(path):
                others.append(path)
        elif split in found:
            raise ImageError(f"{found[split]} and {path} are both a {split} split: keep one.")
        else:
            found[split] = path
    if (
        others
        and list(found) == ["train"]
        and all(path.suffix.lower() in READABLE for path in _visible(found["train"]))
    ):
        found = {}
    if found and others:
        raise ImageError(
            f"{next(iter(found.values()))} is a split, and {others[0]} beside it is none: move one of them elsewhere."
        )
    if found and "train" not in found:
        raise ImageError(f"{folder} has {' and '.join(sorted(found))} and no folder train: give one to train on.")
    return found or {"train": folder}


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def holds_pictures(folder: Path) -> bool:
    """Whether there is a file with a picture's suffix in it or below, hidden ones left out."""
    return any(
        name.lower().endswith(tuple(READABLE)) and not name.startswith(".")
        for place, _, names in os.walk(folder)
        if not any(part.startswith(".") for part in Path(place).relative_to(folder).parts)
        for name in names
    )


def pictures_below(folder: Path) -> list[Path]:
    """What `find_images` finds, and what is in folders that links of `folder` lead to. Raises `ImageError`."""
    linked = [path for path in sorted(folder.iterdir()) if path.is_symlink() and path.is_dir()]
    own = [] if linked and not holds_pictures(folder) else [folder]
    return sorted(find_images([*own, *(path for path in linked if holds_pictures(path))]))


def read_metadata(folder: Path) -> dict[Path, Mapping[str, Any]]:
    """The rows of `metadata.jsonl` or `metadata.csv` in `folder`, by the file that they describe; empty if neither is
    there. Raises `ImageError` for one that cannot be read, and for a row without a file_name, with one outside the
    folder, or of a file that another row describes.
    """
    there = [path for path in (folder / "metadata.jsonl", folder / "metadata.csv") if path.is_file()]
    if len(there) > 1:
        raise ImageError(f"{there[0]} and {there[1].name} both describe the pictures: keep one.")
    for path in there:
        try:
            text = path.read_text(encoding="utf-8-sig")
            rows = _json_lines(text) if path.suffix == ".jsonl" else _csv_lines(text)
            return _by_file(path, [(row["file_name"], row) for row in rows])
        except (ValueError, KeyError, TypeError, OSError, csv.Error) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise ImageError(f"{path} cannot be read ({reason}): each row has a file_name.") from None
    return {}


def _by_file(path: Path, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[Path, Mapping[str, Any]]:
    found: dict[Path, Mapping[str, Any]] = {}
    for name, row in rows:
        inside = Path(os.path.relpath(path.parent / name, path.parent))
        if inside.parts[:1] in ((), ("..",)):
            raise ImageError(f"{path} names {name!r}, which is no file in {path.parent}: give names from there on.")
        if path.parent / inside in found:
            raise ImageError(f"{path} describes {name!r} twice: keep one of the rows.")
        found[path.parent / inside] = row
    return found


def _json_lines(text: str) -> list[dict[str, Any]]:
    # not splitlines, which also splits at characters that JSON allows within texts
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _csv_lines(text: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))
