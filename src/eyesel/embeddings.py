"""Files of embeddings: one vector (or matrix) a picture, beside the name of its file."""

import json
from collections.abc import Callable, Iterator, Sequence
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


def write_embeddings(path: str | Path, files: Sequence[str], embeddings: np.ndarray, force: bool = False) -> None:
    """`embeddings` (B, ...) float32 of B files, all of it or nothing.

    `.npz` has arrays `files` and `embeddings`; `.safetensors` a tensor `embeddings` and the files as JSON in its
    metadata; `.parquet` columns `file` and `embedding`, a list of the length of the vectors, nested where there are
    several a picture. Raises `OutputError`.
    """
    path = check_target(path, force)
    with written_whole(path, _WRITERS) as trial:
        _WRITERS[path.suffix.lower()](trial, files, embeddings)


def _write_npz(path: Path, files: Sequence[str], embeddings: np.ndarray) -> None:
    with path.open("xb") as file:
        np.savez(file, files=np.array(files), embeddings=embeddings)


def _write_safetensors(path: Path, files: Sequence[str], embeddings: np.ndarray) -> None:
    save_tensors(path, {"embeddings": HeldTensor(torch.from_numpy(embeddings))}, {"files": json.dumps(list(files))})


def _write_parquet(path: Path, files: Sequence[str], embeddings: np.ndarray) -> None:
    import pyarrow

    def tables() -> Iterator[Any]:
        for start in range(0, max(len(files), 1), ROW_GROUP):
            rows = slice(start, start + ROW_GROUP)
            column = pyarrow.array(embeddings[rows].reshape(-1))
            for length in reversed(embeddings.shape[1:]):
                column = pyarrow.FixedSizeListArray.from_arrays(column, length)
            names = pyarrow.array([text(file) for file in files[rows]], pyarrow.string())
            yield pyarrow.table({"file": names, "embedding": column})

    write_parquet(path, tables())


_WRITERS: dict[str, Callable[[Path, Sequence[str], np.ndarray], None]] = {
    ".npz": _write_npz,
    ".parquet": _write_parquet,
    ".safetensors": _write_safetensors,
}
