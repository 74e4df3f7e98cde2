"""Parquet files, row group by row group; pyarrow is an extra."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eyesel.errors import OutputError

ROW_GROUP = 4096


def check_parquet(path: Path, instead: str) -> None:
    """`OutputError` if `path` is to be a Parquet file and pyarrow is not here."""
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise OutputError(f"Parquet files need the package pyarrow: pip install pyarrow, or write {instead}.")


def write_parquet(path: Path, tables: Iterable[Any]) -> None:
    """pyarrow tables of one schema, at least one, each of which becomes a row group."""
    import pyarrow.parquet

    iterator = iter(tables)
    first = next(iterator)
    with pyarrow.parquet.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for table in iterator:
            writer.write_table(table)


def text(name: str) -> str:
    """A file name as Parquet takes it: bytes that are no UTF-8 are replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
