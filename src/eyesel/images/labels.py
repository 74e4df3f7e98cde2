"""What the pictures of a folder are labelled, as the ImageFolder of `datasets` reads it."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eyesel.errors import ImageError


def folder_labels(folder: Path, files: Iterable[Path]) -> dict[Path, str | None]:
    """The label of each file below `folder`: what `metadata.jsonl` or `metadata.csv` says, else its parent's name.

    The metadata lies in `folder` and has the columns `file_name` and `label`. A picture that lies in `folder` itself
    and is not in the metadata has no label. Raises `ImageError` where the metadata cannot be read.
    """
    told = {folder / name: label for name, label in _metadata(folder).items()}
    return {file: told.get(file, file.parent.name if file.parent != folder else None) for file in files}


def _metadata(folder: Path) -> dict[str, str]:
    for name, read in (("metadata.jsonl", _json_lines), ("metadata.csv", _csv_lines)):
        path = folder / name
        if path.is_file():
            try:
                rows = read(path.read_text(encoding="utf-8"))
                return {row["file_name"]: str(row["label"]) for row in rows if row.get("label") not in (None, "")}
            except (ValueError, KeyError, AttributeError, OSError, csv.Error) as error:
                reason = f"no {error}" if isinstance(error, KeyError) else error
                raise ImageError(f"{path} cannot be read ({reason}): each row has a file_name and a label.") from None
    return {}


def _json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _csv_lines(text: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(text.splitlines()))
