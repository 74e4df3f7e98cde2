"""Results on disk, whole or not at all; safetensors are written tensor by tensor, so that memory stays small."""

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eyesel.errors import CheckpointError, OutputError, SettingError
from eyesel.weights.files import DTYPE_NAMES, STEMS
from eyesel.weights.placement import PRECISIONS
from eyesel.weights.views import StoredTensor


@contextmanager
def replacing(path: Path, force: bool = False) -> Iterator[Path]:
    """A new name beside `path` to write a file or folder under; renamed when the block is done, removed if it fails.

    What is there already is an `OutputError`, unless `force` allows a file, or a model's folder, to be replaced.
    """
    path = path.expanduser()
    if path.exists() and not force:
        raise OutputError(f"{path} exists already: choose another name, or allow it to be replaced (--force).")
    if path.is_dir() and not _is_model(path):
        raise OutputError(f"{path} is a folder, and not one of a model: it was not replaced; choose another name.")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist: create it or choose another place.")
    fresh = path.with_name(f".eyesel-{secrets.token_hex(8)}.tmp")
    old = path.with_name(f".eyesel-{secrets.token_hex(8)}.old")
    try:
        yield fresh
        if path.is_dir():  # a folder cannot be renamed onto another
            path.rename(old)
        fresh.rename(path)
    except OSError as error:
        if old.exists() and not path.exists():
            old.rename(path)
        raise OutputError(f"{path} cannot be written ({error.strerror or error}): choose another place.") from error
    finally:
        for leftover in (fresh, old):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def _is_model(folder: Path) -> bool:
    weights = (folder / "config.json").is_file() and any(any(folder.glob(f"{stem}*")) for stem in STEMS)
    return weights or (folder / "model_index.json").is_file()


def stored_dtype(name: str | None) -> torch.dtype | None:
    """The type that weights are to be stored in, by its name; None leaves each as it is."""
    if name is not None and name not in PRECISIONS:
        raise SettingError(f"dtype {name!r} is unknown; choose one of {', '.join(PRECISIONS)}.")
    return PRECISIONS[name] if name else None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_tensors(
    path: Path,
    tensors: Mapping[str, StoredTensor],
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """A safetensors file (github.com/huggingface/safetensors, "Format"); `dtype` converts floating-point tensors."""
    names = sorted(tensors)
    dtypes = {name: dtype if dtype and tensors[name].dtype.is_floating_point else tensors[name].dtype for name in names}
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in sorted(names, key=lambda name: -dtypes[name].itemsize):  # the widest first keeps every one aligned
        start, end = end, end + torch.Size(tensors[name].shape).numel() * dtypes[name].itemsize
        shape = list(tensors[name].shape)
        header[name] = {"dtype": DTYPE_NAMES[dtypes[name]], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in header:
            if name != "__metadata__":
                file.write(_bytes(name, tensors[name], dtypes[name]).data)


def _bytes(name: str, stored: StoredTensor, dtype: torch.dtype) -> np.ndarray:
    tensor = stored.read()
    converted = tensor.to(dtype)
    if dtype != tensor.dtype and bool(converted.isinf().any()) and not bool(tensor.float().isinf().any()):
        raise CheckpointError(f"{name} has numbers too large for {str(dtype)[6:]}: choose bfloat16 or float32.")
    return converted.contiguous().reshape(-1).view(torch.uint8).numpy()
