"""Tensor files: safetensors, mapped into memory; `.bin` pickles, through torch's restricted unpickler only; `.npz`."""

import argparse
import json
import mmap
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from eyesel.errors import CheckpointError
from eyesel.weights.npz import open_npz
from eyesel.weights.views import HeldTensor, StoredTensor

MAX_JSON_BYTES = 100 << 20


# safetensors' names of the types; others (packed 4-bit and the like) belong to checkpoints that eyesel does not open
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class _SafeTensor:
    file: Any
    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    nbytes: int

    def mapped(self) -> Tensor:
        return self.file.get_tensor(self.name)

    def read(self) -> Tensor:
        if not self.nbytes:
            return torch.empty(self.shape, dtype=self.dtype)
        start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        with self.path.open("rb") as file:
            pages = mmap.mmap(file.fileno(), self.offset + self.nbytes - start, access=mmap.ACCESS_COPY, offset=start)
        return torch.frombuffer(pages, dtype=self.dtype, offset=self.offset - start).view(self.shape)


def _open_safetensors(path: Path) -> dict[str, StoredTensor]:
    try:
        file = safe_open(path, "pt")  # checks the header and every offset in it
        header, start = _header(path)
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}); download it again if it was cut short."
        ) from error
    header.pop("__metadata__", None)
    if strange := sorted({entry["dtype"] for entry in header.values()} - set(DTYPES)):
        raise CheckpointError(f"{path} stores tensors as {', '.join(strange)}, which eyesel does not read.")
    return {
        name: _SafeTensor(
            file,
            path,
            name,
            tuple(entry["shape"]),
            DTYPES[entry["dtype"]],
            start + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file that has been checked, and where its data begin."""
    with path.open("rb") as f:
        length = struct.unpack("<Q", f.read(8))[0]
        return json.loads(f.read(length)), 8 + length


def read_tensor_metadata(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file that `open_tensors` has opened; other files have none."""
    return _header(path)[0].get("__metadata__") or {} if path.suffix == ".safetensors" else {}


# Stand for the training callback that the first published checkpoints name, and for the table in which the first
# embeddings keep their vectors; they do nothing but hold. Namespaces, too, hold data alone: the command line of a
# training.
_STAND_INS: list[Any] = [
    type("ModelCheckpoint", (), {"__module__": "pytorch_lightning.callbacks.model_checkpoint"}),
    type("ParameterDict", (), {"__module__": "torch.nn.modules.container"}),
    argparse.Namespace,
]


def read_pickle(path: Path) -> Any:
    """What a pickle of torch holds: tensors, and plain Python in which they lie."""
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except (RuntimeError, ValueError):  # the format before torch 1.6 cannot be mapped
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):  # the name of something else than a tensor
            raise CheckpointError(
                f"{path} holds more than tensors and was not opened; ask its author for a safetensors file."
            ) from error
        raise CheckpointError(f"{path} is not a complete PyTorch file; download it again.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is not a complete PyTorch file; download it again.") from error


def _open_pickle(path: Path) -> dict[str, StoredTensor]:
    state = read_pickle(path)
    while wrapper := _wrapper(state):
        state = state[wrapper]
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} holds a {type(state).__name__} where a table of tensors was expected.")
    return held_tensors(state, path)


def held_tensors(table: Mapping[Any, Any], path: Path) -> dict[str, StoredTensor]:
    """The tensors of a table that `read_pickle` has read from `path`."""
    tensors = {name: value for name, value in table.items() if isinstance(value, Tensor)}
    if strange := [name for name, value in tensors.items() if not (isinstance(name, str) and _is_plain(value))]:
        raise CheckpointError(f"{path} holds {strange[0]!r}, which is not a dense tensor of real numbers with a name.")
    return {name: HeldTensor(value) for name, value in tensors.items()}


# Under which name training code keeps the weights; DINO's teacher is the network that is used.
_WRAPPERS = ("state_dict", "model", "teacher")


def _wrapper(state: Any) -> str | None:
    names = _WRAPPERS if isinstance(state, Mapping) else ()
    return next((name for name in names if isinstance(state.get(name), Mapping)), None)


def _is_plain(value: Tensor) -> bool:
    usual = value.layout is torch.strided and value.device.type == "cpu"
    return usual and not (value.is_complex() or value.is_quantized)


_OPENERS = {".safetensors": _open_safetensors, ".npz": open_npz}


def open_tensors(files: list[Path]) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint's files, by name. Nothing is read yet but the headers."""
    tensors: dict[str, StoredTensor] = {}
    for path in files:
        tensors |= _OPENERS.get(path.suffix, _open_pickle)(path)
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint's folder."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes, too many for a configuration file.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} has no {path.name}; it is not a complete model folder.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__} where an object was expected.")
    return value


# Stem of the weight files that each library writes.
STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")


def find_weights(folder: Path, variant: str | None = None) -> list[Path]:
    """The weight files of one model folder: safetensors before `.bin`, whole before sharded, plain before variants.

    `variant` ("fp16", "non_ema", ...) insists on `model.fp16.safetensors` and the like; without it, a folder that
    holds only variants gives the first in alphabetical order.
    """
    for suffix in (".safetensors", ".bin"):
        for stem in STEMS:
            plain = [folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.index.json"]
            variants = [
                *sorted(folder.glob(f"{stem}.{variant or '*'}{suffix}")),
                *sorted(folder.glob(f"{stem}{suffix}.index.{variant or '*'}.json")),
            ]
            for path in variants if variant else [*plain, *variants]:
                if path.is_file():
                    return _shards(path) if path.suffix == ".json" else [path]
    wanted = f" of the variant {variant!r}" if variant else ""
    raise CheckpointError(f"{folder} has no weights{wanted}: neither safetensors nor .bin files of a known name.")


def _shards(index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index} has no weight_map; download it again.")
    paths = []
    for name in sorted({str(value) for value in names.values()}):
        if Path(name).name != name:
            raise CheckpointError(f"{index} points outside its own folder, to {name!r}; it was not followed.")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent} lacks {name}, which its index names; download it again.")
        paths.append(index.parent / name)
    return paths
