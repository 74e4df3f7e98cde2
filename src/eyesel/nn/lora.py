"""Changes to a weight that are kept apart from it, as small factors: LoRA and its relatives.

    LowRank      up · down                              LoRA (Hu et al. 2021); convolutions and a core as in LoCon
    Hadamard     (up₁ · down₁) ∘ (up₂ · down₂)          LoHa (Hyeon-Woo et al. 2021)
    Kronecker    A ⊗ B                                  LoKr (Yeh et al. 2023, LyCORIS)
    Whole        the difference itself
    Rescaled     rows or columns times 1 + v            (IA)³ (Liu et al. 2022)
    Decomposed   another change, then the length of every row (or column) set anew: DoRA (Liu et al. 2024)

A weight W (out, in) or (out, in, kh, kw) becomes W + s · delta(W), for a strength s. All of it is computed in float32.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Sides = tuple[int, int]


def sides(shape: torch.Size) -> Sides:
    """A weight as a matrix: its rows, and everything else."""
    return shape[:1].numel(), shape[1:].numel()


def _matrix(factor: Tensor, device: torch.device) -> Tensor:
    return factor.to(device, torch.float32).reshape(sides(factor.shape))


class Change(Protocol):
    def fits(self, shape: torch.Size) -> bool:
        """Whether this is a change of weights of that shape."""
        ...

    def delta(self, weight: Tensor) -> Tensor:
        """What is added to a float32 weight, of its shape."""
        ...


class Factored(ABC):
    """A change that does not depend on the weight: `matrix` is all of it."""

    @property
    @abstractmethod
    def sides(self) -> Sides | None:
        """Rows and columns of the product; None if the factors cannot be multiplied."""

    @abstractmethod
    def matrix(self, device: torch.device) -> Tensor:
        """(rows, columns), float32."""

    def fits(self, shape: torch.Size) -> bool:
        return self.sides == sides(shape)

    def delta(self, weight: Tensor) -> Tensor:
        return self.matrix(weight.device).reshape(weight.shape)


@dataclass(frozen=True, eq=False)
class Whole(Factored):
    values: Tensor
    scale: float = 1.0

    @property
    def sides(self) -> Sides:
        return sides(self.values.shape)

    def matrix(self, device: torch.device) -> Tensor:
        return _matrix(self.values, device) * self.scale


@dataclass(frozen=True, eq=False)
class LowRank(Factored):
    """`core` is the middle of a Tucker decomposition, a convolution between two that see one position each."""

    down: Tensor  # (r, in), (r, in, kh, kw); with a core (r, in, 1, 1)
    up: Tensor  # (out, r) or (out, r, 1, 1)
    scale: float = 1.0
    core: Tensor | None = None  # (r, r, kh, kw)

    @property
    def sides(self) -> Sides | None:
        (rows, rank), (rank_below, columns) = sides(self.up.shape), sides(self.down.shape)
        if self.core is None:
            return (rows, columns) if rank == rank_below else None
        return (rows, columns * self.core.shape[2:].numel()) if self.core.shape[:2] == (rank, rank_below) else None

    def matrix(self, device: torch.device) -> Tensor:
        up, down = _matrix(self.up, device) * self.scale, _matrix(self.down, device)
        if self.core is None:
            return up @ down
        return torch.einsum("on, nm..., mi -> oi...", up, self.core.to(device, torch.float32), down).flatten(1)


@dataclass(frozen=True, eq=False)
class Hadamard(Factored):
    first: Factored
    second: Factored
    scale: float = 1.0

    @property
    def sides(self) -> Sides | None:
        return self.first.sides if self.first.sides == self.second.sides else None

    def matrix(self, device: torch.device) -> Tensor:
        return self.first.matrix(device) * self.second.matrix(device) * self.scale


@dataclass(frozen=True, eq=False)
class Kronecker(Factored):
    """The kernel of a convolution is in the second factor."""

    first: Factored
    second: Factored
    scale: float = 1.0

    @property
    def sides(self) -> Sides | None:
        first, second = self.first.sides, self.second.sides
        return (first[0] * second[0], first[1] * second[1]) if first and second else None

    def matrix(self, device: torch.device) -> Tensor:
        return torch.kron(self.first.matrix(device), self.second.matrix(device)) * self.scale


@dataclass(frozen=True, eq=False)
class Rescaled:
    factors: Tensor  # (in) or (out), however it is shaped
    columns: bool  # of the input

    def fits(self, shape: torch.Size) -> bool:
        return len(shape) > 1 and self.factors.numel() == shape[1 if self.columns else 0]

    def delta(self, weight: Tensor) -> Tensor:
        return weight * _along(self.factors, weight, 1 if self.columns else 0)


@dataclass(frozen=True, eq=False)
class Decomposed:
    """The paper's W' = m (W + ΔW) / ‖W + ΔW‖. `magnitude` m is (out, 1, ...), one length a row, as PEFT, OneTrainer and
    LyCORIS by default have it, or (1, in, 1, ...), one a column, as LyCORIS had it first.
    """

    direction: Change
    magnitude: Tensor

    def _axis(self, shape: torch.Size) -> int:
        return 0 if self.magnitude.shape[:1] == shape[:1] else 1

    def fits(self, shape: torch.Size) -> bool:
        if not self.direction.fits(shape) or len(shape) < 2:
            return False
        return self.magnitude.numel() == shape[self._axis(shape)]

    def delta(self, weight: Tensor) -> Tensor:
        axis = self._axis(weight.shape)
        changed = weight + self.direction.delta(weight)
        length = changed.movedim(axis, 0).flatten(1).norm(dim=1).clamp(min=torch.finfo(torch.float32).eps)
        scale = self.magnitude.to(weight.device, torch.float32).flatten() / length
        return changed * _along(scale, weight, axis) - weight


def _along(vector: Tensor, weight: Tensor, axis: int) -> Tensor:
    """A vector that multiplies the slices of a weight along `axis`."""
    shape = [1] * weight.dim()
    shape[axis] = -1
    return vector.to(weight.device, torch.float32).reshape(shape)
