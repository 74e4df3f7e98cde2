"""Files of what a classifier said about many pictures: JSON lines, CSV or Parquet, one row a picture."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from eyesel.images import check_writable, written_whole
from eyesel.parquet import ROW_GROUP, check_parquet, text, write_parquet

Row = dict[str, Any]


def check_table(path: str | Path) -> Path:
    """`path`, if a table can be written there."""
    path = check_writable(path, _WRITERS)
    check_parquet(path, ".jsonl or .csv")
    return path


def write_predictions(path: str | Path, rows: Iterable[Row], top_k: int) -> None:
    """Rows {"file", "predictions": [{"label", "score"}, ...]} or {"file", "error"}, all of them or nothing.

    `.jsonl` has them as they are; `.csv` columns `file`, `label_1`, `score_1`, ... to `top_k`, `error`; `.parquet`
    columns `file`, `predictions` (a list of structures) and `error`. Raises `OutputError`.
    """
    path = check_table(path)
    with written_whole(path, _WRITERS) as trial:
        _WRITERS[path.suffix.lower()](trial, rows, top_k)


def _write_jsonl(path: Path, rows: Iterable[Row], top_k: int) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _write_csv(path: Path, rows: Iterable[Row], top_k: int) -> None:
    with path.open("x", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", *(f"{what}_{i}" for i in range(1, top_k + 1) for what in ("label", "score")), "error"])
        for row in rows:
            cells = [cell for p in row.get("predictions", ()) for cell in (p["label"], p["score"])]
            writer.writerow([row["file"], *cells, *[""] * (2 * top_k - len(cells)), row.get("error", "")])


def _write_parquet(path: Path, rows: Iterable[Row], top_k: int) -> None:
    import pyarrow

    prediction = pyarrow.struct([("label", pyarrow.string()), ("score", pyarrow.float32())])
    columns = {"file": pyarrow.string(), "predictions": pyarrow.list_(prediction), "error": pyarrow.string()}

    def tables() -> Iterator[Any]:
        iterator = iter(rows)
        while group := list(islice(iterator, ROW_GROUP)):
            whole = [{**dict.fromkeys(columns), **row, "file": text(row["file"])} for row in group]
            for row in whole:
                row["error"] = None if row["error"] is None else text(row["error"])
            yield pyarrow.Table.from_pylist(whole, pyarrow.schema(columns))

    write_parquet(path, tables())


_WRITERS: dict[str, Callable[[Path, Iterable[Row], int], None]] = {
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
