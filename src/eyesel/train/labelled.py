"""Labelled pictures, wherever they lie: class folders, metadata, Parquet files, a data set of the hub."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyesel.errors import EyeselError, ImageError, SettingError
from eyesel.train.folders import holds_pictures, pictures_below, read_metadata, split_folders, split_of

_IMAGE_COLUMNS = ("image", "img", "picture", "pixels")
_LABEL = "label"  # of metadata
_LABEL_COLUMNS = ("label", "labels", "class", "fine_label", "category")


@dataclass(frozen=True, eq=False)
class Labelled:
    """One split: pictures that have not been opened (what `open_image` takes), their names, and their labels.

    `classes` are the labels that the source knows, in its order, those without a picture among them.
    """

    sources: Sequence[Any]
    names: Sequence[str]
    labels: Sequence[str]
    classes: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, numbers: Sequence[int]) -> "Labelled":
        return Labelled(
            [self.sources[i] for i in numbers],
            [self.names[i] for i in numbers],
            [self.labels[i] for i in numbers],
            self.classes,
        )


def read_labelled(
    data: str | Path, image_column: str | None = None, label_column: str | None = None, offline: bool = False
) -> dict[str, Labelled]:
    """`train`, and `validation` and `test` where they are there.

    `data` is a folder whose pictures lie in folders that are called as what they show, or are described in
    metadata.jsonl or metadata.csv (`file_name`, and a label); a Parquet file or a folder of them; or a data set of the
    hub, `owner/name` or `owner/name:configuration`, which `offline` takes only from where it was downloaded to. Raises
    `EyeselError` for what is none of these.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        tables = sorted(file for file in path.rglob("*.parquet") if not _hidden(file.relative_to(path)))
        if tables and holds_pictures(path):
            raise SettingError(f"{path} holds pictures, and the table {tables[0]}: give one of them.")
        if tables:
            return _of_parquet(tables, image_column, label_column)
        if image_column is not None:
            raise SettingError(f"image_column is that of a table, and {path} is a folder of pictures: leave it out.")
        return _of_folder(path, label_column)
    if path.is_file():
        if path.suffix.lower() != ".parquet":
            raise SettingError(
                f"{path} is no data set: give a folder of pictures, a Parquet file or a name of the hub."
            )
        return _of_parquet([path], image_column, label_column)
    if str(data).count("/") != 1 or str(data).startswith((".", "/", "~")) or str(data).endswith("/"):
        raise SettingError(f"{data} does not exist: check the path.")
    return _of_hub(str(data), image_column, label_column, offline)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _of_folder(folder: Path, label_column: str | None) -> dict[str, Labelled]:
    common = read_metadata(folder)
    splits = {}
    for split, below in split_folders(folder).items():
        told = {path: row for path, row in {**common, **read_metadata(below)}.items() if path.is_relative_to(below)}
        absent = next((path for path in told if not path.is_file()), None)
        if absent is not None:
            raise ImageError(f"{absent} is in the metadata and does not exist: mend one of them.")
        if label_column and not told:
            raise ImageError(f"label_column is {label_column!r}, and no metadata describe {below}: leave it out.")
        files = sorted({*pictures_below(below), *told})
        labels = [_label(file, told.get(file), label_column, below) for file in files]
        without = [file for file, label in zip(files, labels, strict=True) if label is None]
        if without:
            more = f" (and {len(without) - 1} more)" if len(without) > 1 else ""
            raise ImageError(
                f"{without[0]}{more} has no label: put pictures into folders that are called as what they show, or "
                f"write metadata.jsonl with file_name and {label_column or _LABEL}."
            )
        known = [label for label in labels if label is not None]
        classes = sorted({*known, *_class_folders(below, told)})
        splits[split] = Labelled(files, [str(file) for file in files], known, classes)
    return splits


def _label(file: Path, row: Mapping[str, Any] | None, column: str | None, folder: Path) -> str | None:
    if column is not None and row is not None and column not in row:
        raise ImageError(f"the metadata of {file} has no column {column!r}; it has {', '.join(map(str, row))}.")
    said = None if row is None else row.get(column or _LABEL)
    if isinstance(said, list | dict):
        raise ImageError(f"{file} has the label {said!r}: a picture has one label here, not several.")
    if said not in (None, ""):
        return str(said)
    return file.parent.name if file.parent != folder else None


def _class_folders(folder: Path, told: Mapping[Path, Any]) -> Iterator[str]:
    """Folders without a picture in them are classes, too, if classes are folders here."""
    if not told:
        for path in folder.iterdir():
            if path.is_dir() and not path.name.startswith(".") and not holds_pictures(path):
                yield path.name


def _of_parquet(tables: Sequence[Path], image_column: str | None, label_column: str | None) -> dict[str, Labelled]:
    import datasets

    files: dict[str, list[str]] = {}
    for path in tables:
        words = [path.parent.name, path.stem, path.stem.split("-")[0], path.stem.split("_")[0]]
        split = next((found for word in words if (found := split_of(word))), "train")
        files.setdefault(split, []).append(str(path))
    return _of_datasets(
        str(tables[0]),
        lambda: datasets.load_dataset("parquet", data_files=files),
        image_column,
        label_column,
    )


def _of_hub(name: str, image_column: str | None, label_column: str | None, offline: bool) -> dict[str, Labelled]:
    import datasets

    repository, _, configuration = name.partition(":")
    with _without_network() if offline else nullcontext():
        return _of_datasets(
            name, lambda: datasets.load_dataset(repository, configuration or None), image_column, label_column
        )


@contextmanager
def _without_network() -> Iterator[None]:
    """`datasets` asks the hub in spite of its own local_files_only, and five times: it has to be told as a whole."""
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _of_datasets(name: str, load: Any, image_column: str | None, label_column: str | None) -> dict[str, Labelled]:
    import datasets

    datasets.disable_progress_bars()
    try:
        loaded = load()
        splits = {split: part for word, part in loaded.items() if (split := split_of(str(word).split("-")[0]))}
        if "train" not in splits:
            raise SettingError(f"{name} has no split for training, only {', '.join(map(str, loaded))}.")
        return {split: _columns(part, name, image_column, label_column) for split, part in splits.items()}
    except EyeselError:
        raise
    except Exception as error:  # of the network, the hub, Arrow: whatever stops `datasets`
        raise SettingError(f"{name} cannot be read ({' '.join(str(error).split())[:200]}): check the name.") from error


def _columns(part: Any, name: str, image_column: str | None, label_column: str | None) -> Labelled:
    import datasets

    image = _column(part, image_column, _IMAGE_COLUMNS, "image", name)
    label = _column(part, label_column, _LABEL_COLUMNS, "label", name)
    undecoded = part.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    feature = part.features[label]
    values = list(part[label])
    odd = next((row for row, value in enumerate(values) if value is None or isinstance(value, list | dict)), None)
    if odd is not None:
        raise SettingError(f"{name}, row {odd}, has the label {values[odd]!r}: each picture has one.")
    if isinstance(feature, datasets.ClassLabel):
        labels, classes = [feature.int2str(value) for value in values], list(feature.names)
    else:
        labels = [str(value) for value in values]
        classes = sorted(set(labels))
    names = [f"{name}, row {i}" for i in range(len(labels))]
    return Labelled(_Column(undecoded, image, names), names, labels, classes)


def _column(part: Any, wanted: str | None, usual: Sequence[str], what: str, name: str) -> str:
    there = list(part.column_names)
    found = [wanted] if wanted else [column for column in usual if column in there]
    if not found or found[0] not in there:
        missing = wanted or " or ".join(usual[:2])
        raise SettingError(f"{name} has no column {missing}, only {', '.join(there)}: name it by --{what}-column.")
    return found[0]


class _Column(Sequence[Any]):
    """Encoded pictures of a table, read as they are asked for; what is wrong with one is said of its name."""

    def __init__(self, table: Any, column: str, names: Sequence[str]) -> None:
        self._table, self._column, self._names = table, column, names

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:
        value = self._table[index][self._column] or {}
        if value.get("path") and value.get("bytes") is None:
            return value["path"]
        return _Named(value.get("bytes") or b"", self._names[index])


class _Named(io.BytesIO):
    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name
