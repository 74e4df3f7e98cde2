"""NumPy's .npz files, array by array, without pickles."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eyesel.errors import CheckpointError
from eyesel.weights.views import StoredTensor


@dataclass(frozen=True)
class _Array:
    """One array of an .npz file, known by its header."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    def mapped(self) -> Tensor:
        return self.read()

    def read(self) -> Tensor:
        with np.load(self.path, allow_pickle=False) as file:
            return torch.from_numpy(np.ascontiguousarray(file[self.name]))


def open_npz(path: Path) -> dict[str, StoredTensor]:
    """The arrays of an .npz file by name; nothing is read yet but their headers, and pickles never."""
    try:
        with zipfile.ZipFile(path) as file:
            return {info.filename.removesuffix(".npy"): _array(path, file, info) for info in file.infolist()}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is not a complete .npz file ({error}); download it again.") from error


def _array(path: Path, file: zipfile.ZipFile, info: zipfile.ZipInfo) -> StoredTensor:
    name = info.filename.removesuffix(".npy")
    with file.open(info) as header:
        version = np.lib.format.read_magic(header)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(header)
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise CheckpointError(f"{path} holds {name!r} as {dtype}, which is no array of real numbers.")
    return _Array(path, name, shape, torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype)
