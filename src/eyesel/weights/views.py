"""Stored tensors seen otherwise: a slice, a join, a transpose, another shape. Nothing is read until it is asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor


class StoredTensor(Protocol):
    """A tensor in a file, known by its shape and type until it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def mapped(self) -> Tensor:
        """A view of the file: pages come in when they are touched, and are shared between processes."""
        ...

    def read(self) -> Tensor:
        """A view of its own, to convert from: no page stays mapped when it is dropped."""
        ...


@dataclass(frozen=True)
class HeldTensor:
    """A tensor that is in memory already."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def mapped(self) -> Tensor:
        return self.tensor

    def read(self) -> Tensor:
        return self.tensor


@dataclass(frozen=True)
class View:
    """What `change` makes of other stored tensors."""

    sources: tuple[StoredTensor, ...]
    shape: tuple[int, ...]
    change: Callable[..., Tensor]

    @property
    def dtype(self) -> torch.dtype:
        return self.sources[0].dtype

    def mapped(self) -> Tensor:
        return self.change(*(source.mapped() for source in self.sources))

    def read(self) -> Tensor:
        return self.change(*(source.read() for source in self.sources))


def part(stored: StoredTensor, index: int, count: int) -> StoredTensor:
    """One of the equal slices that a fused tensor is split into along its first dimension."""
    if count == 1:
        return stored
    rows, *rest = stored.shape or (1,)
    return View((stored,), (rows // count, *rest), lambda tensor: tensor.chunk(count)[index])


def joined(parts: Sequence[StoredTensor]) -> StoredTensor:
    """The fused tensor of such slices."""
    if len(parts) == 1:
        return parts[0]
    shape = (sum(each.shape[0] for each in parts), *parts[0].shape[1:])
    return View(tuple(parts), shape, lambda *tensors: torch.cat(tensors))


Form = Literal["transposed", "convolution"]


def as_matrix(stored: StoredTensor, form: Form | None) -> StoredTensor:
    """The matrix that a file holds transposed, or as a 1x1 convolution (old files have it as a matrix there, too)."""
    shape = stored.shape
    if form == "transposed" and len(shape) == 2:
        return View((stored,), shape[::-1], lambda tensor: tensor.t().contiguous())
    if form == "convolution" and shape[2:] == (1, 1):
        return View((stored,), shape[:2], lambda tensor: tensor[:, :, 0, 0])
    return stored


def from_matrix(stored: StoredTensor, form: Form | None) -> StoredTensor:
    """The way back."""
    if form == "convolution" and len(stored.shape) == 2:
        return View((stored,), (*stored.shape, 1, 1), lambda tensor: tensor[:, :, None, None])
    return as_matrix(stored, form if form == "transposed" else None)
