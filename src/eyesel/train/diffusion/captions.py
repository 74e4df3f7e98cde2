"""The pictures of a folder and what each of them is said to show.

In this order: one prompt for all (`instance_prompt`); `metadata.jsonl` or `metadata.csv` with file_name and text or
caption; a file beside the picture, `.txt` or `.caption`; the name of its folder, which kohya's sd-scripts write with
repeats before it (`10_sks dog`).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyesel.errors import ImageError
from eyesel.train.folders import pictures_below, read_metadata, split_folders
from eyesel.weights.load import listed

SIDECARS = (".txt", ".caption")
COLUMNS = ("text", "caption")
_KOHYA = re.compile(r"(\d+)_(.*\S)")


@dataclass(frozen=True)
class Sample:
    """A picture and its caption; `caption` None: its method says what it shows (the templates of textual inversion).

    `prior` pictures show what the base has to keep.
    """

    path: Path
    caption: str | None
    repeats: int = 1
    prior: bool = False


def read_samples(
    data: str | Path,
    column: str | None = None,
    prompt: str | None = None,
    needed: bool = True,
    strict: bool = False,
    setting: str = "instance_prompt",
) -> tuple[list[Sample], list[str]]:
    """The pictures below a folder, its training split where it has splits, and what else should be known.

    `column` is that of the captions in the metadata; `prompt` stands for all captions, and `setting` is its name where
    it is asked for. Unless captions are `needed`, pictures without any have None. Those without one are else left out
    and named, or, with `strict`, an error. Raises `ImageError`.
    """
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise ImageError(f"{folder} is no folder: name one with pictures and their captions.")
    notes = []
    splits = split_folders(folder)
    if splits["train"] != folder:
        left = [split for split in splits if split != "train"]
        if left:
            notes.append(f"trained on {splits['train']}; {' and '.join(left)} is not looked at")
        folder = splits["train"]
    paths = pictures_below(folder)
    metadata: dict[Path, Mapping[str, Any]] = {}
    for place in sorted({folder, *(path.parent for path in paths)}):
        metadata |= read_metadata(place)
    if column is not None and not metadata:
        raise ImageError(f"caption_column is {column!r}, and no metadata describe {folder}: leave it out.")
    samples, missing = [], []
    for path in paths:
        repeats, named = _folder_name(path, folder)
        caption = prompt or _told(metadata.get(path), column, path) or _beside(path) or named
        if caption is None and needed:
            missing.append(str(path.relative_to(folder)))
        else:
            samples.append(Sample(path, caption, repeats))
    return samples, [*notes, *_missing(folder, missing, samples, metadata, strict, setting)]


def _folder_name(path: Path, root: Path) -> tuple[int, str | None]:
    """Repeats and caption, by the folder that a picture is in."""
    if path.parent == root:
        found = _KOHYA.fullmatch(root.name)
        return (int(found[1]) or 1, found[2]) if found else (1, None)
    found = _KOHYA.fullmatch(path.parent.name)
    repeats, words = (int(found[1]) or 1, found[2]) if found else (1, path.parent.name)
    return repeats, words.replace("_", " ").strip() or None


def _told(row: Mapping[str, Any] | None, column: str | None, path: Path) -> str | None:
    if row is None:
        return None
    if column is not None and column not in row:
        raise ImageError(f"the metadata of {path} has no column {column!r}; it has {', '.join(map(str, row))}.")
    text = next((row[name] for name in ([column] if column else COLUMNS) if row.get(name)), None)
    return str(text).strip() or None if text is not None else None


def _beside(path: Path) -> str | None:
    for suffix in SIDECARS:
        file = path.with_suffix(suffix)
        if file.is_file():
            try:
                return " ".join(file.read_text(encoding="utf-8-sig").split()) or None
            except (OSError, ValueError) as error:
                raise ImageError(f"the caption {file} cannot be read ({error}): save it as UTF-8.") from None
    return None


def _missing(
    folder: Path,
    missing: Sequence[str],
    samples: Sequence[Sample],
    metadata: Mapping[Path, Any],
    strict: bool,
    setting: str,
) -> list[str]:
    """Pictures without captions, and captions without pictures: notes about them, or an error."""
    absent = [path.name for path in metadata if not path.is_file()]
    where = (
        "a line in metadata.jsonl, a .txt file of the same name, a folder that says what they show, or one "
        f"{setting} for all"
    )
    if missing and (strict or not samples):
        raise ImageError(
            f"{len(missing)} pictures in {folder} have no caption ({listed(list(missing))}): give {where}."
        )
    if absent and strict:
        raise ImageError(f"the metadata in {folder} name pictures that are not there ({listed(absent)}).")
    notes = []
    if missing:
        notes.append(f"pictures left out because they have no caption: {len(missing)} ({listed(list(missing))})")
    if absent:
        notes.append(f"pictures of the metadata that are not there: {len(absent)} ({listed(absent)})")
    return notes


def folders(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """How many pictures there are of each folder, and how often each is shown, as kohya's metadata say it."""
    counts: dict[str, dict[str, int]] = {}
    for sample in samples:
        own = counts.setdefault(sample.path.parent.name, {"n_repeats": sample.repeats, "img_count": 0})
        own["img_count"] += 1
    return counts


def tags(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """How often each comma-separated tag is said, by folder, as kohya's metadata count them."""
    counts: dict[str, Counter[str]] = {}
    for sample in samples:
        own = counts.setdefault(sample.path.parent.name, Counter())
        own.update(tag.strip() for tag in (sample.caption or "").split(",") if tag.strip())
    return {folder: dict(own) for folder, own in counts.items()}
