"""How pictures lie in a folder: its splits, its class folders, and what `metadata.jsonl` or `metadata.csv` say."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eyesel.errors import ImageError

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
    """train, validation and test below `folder`, those that are there; without train, all of it is `train`."""
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        split = split_of(path.name)
        if split is not None:
            if split in found:
                raise ImageError(f"{found[split]} and {path} are both a {split} split: keep one.")
            found[split] = path
    return found if "train" in found else {"train": folder}


def read_metadata(folder: Path) -> dict[Path, Mapping[str, Any]]:
    """The rows of `metadata.jsonl` or `metadata.csv` in `folder`, by the file that they describe; empty if neither is
    there. Raises `ImageError` for one that cannot be read, or a row without a file_name.
    """
    for name, read in (("metadata.jsonl", _json_lines), ("metadata.csv", _csv_lines)):
        path = folder / name
        if path.is_file():
            try:
                rows = read(path.read_text(encoding="utf-8"))
                return {folder / row["file_name"]: row for row in rows}
            except (ValueError, KeyError, TypeError, OSError, csv.Error) as error:
                reason = f"no {error}" if isinstance(error, KeyError) else error
                raise ImageError(f"{path} cannot be read ({reason}): each row has a file_name.") from None
    return {}


def _json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _csv_lines(text: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(text.splitlines()))
