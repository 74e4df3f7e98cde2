"""Rows of a batch that follow the first of them (StyleAligned, Hertz et al. 2024): what they share, and their norms."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from eyesel.errors import SettingError
from eyesel.nn.replica import replica

Model = TypeVar("Model", bound=nn.Module)


def of_first(x: Tensor, count: int) -> Tensor:
    """(B, ...), groups of `count` rows, such as those without and with prompt -> each row the first of its group."""
    if len(x) % count:
        raise SettingError(
            f"{len(x)} rows cannot be aligned in groups of {count}: paint {count} pictures in one batch."
        )
    groups = x.unflatten(0, (-1, count))  # (B / count, count, ...)
    return groups[:, :1].expand(groups.shape).flatten(0, 1)


class SharedGroupNorm(nn.GroupNorm):
    """A group norm of the same weights, with the mean and variance of each row and the first of its group together."""

    def __init__(self, base: nn.GroupNorm, count: int) -> None:
        super().__init__(base.num_groups, base.num_channels, base.eps, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        both = super().forward(torch.cat([x, of_first(x, self.count)], dim=-2))  # (B, C, 2H, W)
        return both[..., : x.shape[-2], :]


def with_shared_norms(model: Model, count: int) -> Model:
    """A replica that shares every weight, for one call of `count` pictures."""
    other = replica(model)
    for path, module in list(other.named_modules()):
        if isinstance(module, nn.GroupNorm):
            owner, _, leaf = path.rpartition(".")
            setattr(other.get_submodule(owner), leaf, SharedGroupNorm(module, count))
    return other
