"""A model with changes to its weights, as a replica: the model itself, and whoever uses it, never notices.

Fused, every changed weight is a new tensor and the model runs as fast as before. Otherwise the changes stay small
factors whose products are added to what the layer gives: a few megabytes instead of a second set of weights.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyesel.errors import SettingError
from eyesel.nn.lora import Change, LowRank
from eyesel.nn.replica import replica

Model = TypeVar("Model", bound=nn.Module)
Changes = Sequence[tuple[Change, float]]  # with the strength of each


def adapted(model: Model, changes: Mapping[str, Changes], fuse: bool = True) -> Model:
    """A replica whose parameters, by name, have the changes applied one after the other; the others are shared.

    Without `fuse`, layers that are changed by low rank alone keep their weights and add the products at run time.
    """
    apart = {} if fuse else {name: each for name, each in changes.items() if _can_stand_apart(model, name, each)}

    def changed(name: str, weight: Tensor) -> Tensor:
        return weight if name in apart or name not in changes else _changed(name, weight, changes[name])

    other = replica(model, changed)
    for name, each in apart.items():
        path = name.rpartition(".")[0]
        owner, _, leaf = path.rpartition(".")
        setattr(other.get_submodule(owner), leaf, _with_products(other.get_submodule(path), each))
    return other


def _changed(name: str, weight: Tensor, changes: Changes) -> Tensor:
    new = weight.float()
    for change, strength in changes:
        new = new + strength * change.delta(new)
    result = torch.empty_like(weight).copy_(new)  # in the same memory layout
    if not result.isfinite().all():
        raise SettingError(f"The LoRA makes numbers of {name} that are no numbers: lower its weight.")
    return result


def _can_stand_apart(model: nn.Module, name: str, changes: Changes) -> bool:
    path, _, leaf = name.rpartition(".")
    layer = model.get_submodule(path)
    if leaf != "weight" or not isinstance(layer, nn.Linear | nn.Conv2d):
        return False
    cores = isinstance(layer, nn.Conv2d)
    return all(isinstance(change, LowRank) and (cores or change.core is None) for change, _ in changes)


class Product(nn.Module):
    """One low-rank change of a layer, in the precision of its weight; the strength is in the last factor."""

    def __init__(self, change: LowRank, strength: float, weight: Tensor) -> None:
        super().__init__()
        kernel = weight.shape[2:] if change.core is None else (1,) * len(weight.shape[2:])
        rank = change.down.shape[0]
        self.down = _frozen(change.down.reshape(rank, -1, *kernel), weight)
        self.core = None if change.core is None else _frozen(change.core, weight)
        up = change.up.float() * (strength * change.scale)
        self.up = _frozen(up.reshape(len(up), -1, *(1,) * len(weight.shape[2:])), weight)


def _frozen(factor: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(factor.to(like.device, like.dtype), requires_grad=False)


class AdaptedLinear(nn.Linear):
    def __init__(self, base: nn.Linear, products: Sequence[Product]) -> None:
        super().__init__(base.in_features, base.out_features, base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.products = nn.ModuleList(products)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        for product in self.products:
            y = y + F.linear(F.linear(x, product.down), product.up)
        return y


class AdaptedConv2d(nn.Conv2d):
    """The first factor sees what the layer sees (with a core, the core does)."""

    def __init__(self, base: nn.Conv2d, products: Sequence[Product]) -> None:
        super().__init__(
            base.in_channels,
            base.out_channels,
            base.kernel_size,  # type: ignore[arg-type]
            base.stride,  # type: ignore[arg-type]
            base.padding,  # type: ignore[arg-type]
            bias=base.bias is not None,
            padding_mode=base.padding_mode,
            device="meta",
        )
        self.weight, self.bias = base.weight, base.bias
        self.products = nn.ModuleList(products)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        for product in self.products:
            if product.core is None:
                h = self._conv_forward(x, product.down, None)
            else:
                h = self._conv_forward(F.conv2d(x, product.down), product.core, None)
            y = y + F.conv2d(h, product.up)
        return y


def _with_products(base: nn.Module, changes: Changes) -> nn.Module:
    assert isinstance(base, nn.Linear | nn.Conv2d)
    products = [Product(change, strength, base.weight) for change, strength in changes if isinstance(change, LowRank)]
    if isinstance(base, AdaptedLinear | AdaptedConv2d):
        products = [*base.products, *products]  # type: ignore[list-item]
    return AdaptedLinear(base, products) if isinstance(base, nn.Linear) else AdaptedConv2d(base, products)
