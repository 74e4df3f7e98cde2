"""Files of embeddings: one vector (or matrix) a picture, beside the name of its file."""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eyesel.errors import OutputError
from eyesel.images import check_writable, written_whole
from eyesel.parquet import ROW_GROUP, check_parquet, text, write_parquet
from eyesel.weights.save import save_tensors
from eyesel.weights.views import HeldTensor


def check_target(path: str | Path, force: bool = False) -> Path:
    """`path`, if embeddings can be written there: its suffix says how, and what is there stays unless `force`."""
    path = check_writable(path, _WRITERS)
    if path.exists() and not force:
        raise OutputError(f"{path} exists already: choose another name, or allow it to be replaced (--force).")
    check_parquet(path, ".npz or .safetensors")
    return path


def write_embeddings(path: str | Path, files: Iterable[str], embeddings: np.ndarray, force: bool = False) -> None:
    """`embeddings` (B, ...) float32 of B files, whose names are gone through twice, all of it or nothing.

    `.npz` has arrays `files` and `embeddings`; `.safetensors` a tensor `embeddings` and the files as JSON in its
    metadata; `.parquet` columns `file` and `embedding`, a list of the length of the vectors, nested where there are
    several a picture. Raises `OutputError`.
    """
    path = check_target(path, force)
    with written_whole(path, _WRITERS) as trial:
        _WRITERS[path.suffix.lower()](trial, files, embeddings)


def _write_npz(path: Path, files: Iterable[str], embeddings: np.ndarray) -> None:
    """As `np.savez` does, but some names at a time: as an array they take four bytes a letter of the longest."""
    kind = f"<U{max((len(name) for name in files), default=1) or 1}"
    with zipfile.ZipFile(path, "x") as archive:
        with archive.open("files.npy", "w", force_zip64=True) as file:
            header = {"descr": kind, "fortran_order": False, "shape": (len(embeddings),)}
            np.lib.format.write_array_header_1_0(file, header)
            for some in _portions(files):
                file.write(np.array(some, kind).tobytes())
        with archive.open("embeddings.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, embeddings, allow_pickle=False)


def _portions(files: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(files)
    while some := list(islice(iterator, ROW_GROUP)):
        yield some


def _write_safetensors(path: Path, files: Iterable[str], embeddings: np.ndarray) -> None:
    save_tensors(path, {"embeddings": HeldTensor(torch.from_numpy(embeddings))}, {"files": json.dumps(list(files))})


def _write_parquet(path: Path, files: Iterable[str], embeddings: np.ndarray) -> None:
    import pyarrow

    def table(names: list[str], vectors: np.ndarray) -> Any:
        column = pyarrow.array(vectors.reshape(-1))
        for length in reversed(vectors.shape[1:]):
            column = pyarrow.FixedSizeListArray.from_arrays(column, length)
        return pyarrow.table({"file": pyarrow.array(map(text, names), pyarrow.string()), "embedding": column})

    def tables() -> Iterator[Any]:
        start = 0
        for some in _portions(files):
            yield table(some, embeddings[start : start + len(some)])
            start += len(some)
        if not start:
            yield table([], embeddings)

    write_parquet(path, tables())


_WRITERS: dict[str, Callable[[Path, Iterable[str], np.ndarray], None]] = {
    ".npz": _write_npz,
    ".parquet": _write_parquet,
    ".safetensors": _write_safetensors,
}
