"""A model with changes to its weights, as a replica: the model itself, and whoever uses it, never notices.

Fused, every changed weight is a new tensor and the model runs as fast as before. Otherwise the changes stay small
factors whose products are added to what the layer gives: a few megabytes instead of a second set of weights.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar, cast

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
        layer = other.get_submodule(path)
        setattr(other.get_submodule(owner), leaf, _with_products(layer, each).train(layer.training))
    return other


def _changed(name: str, weight: Tensor, changes: Changes) -> Tensor:
    new = weight.to(torch.float32, copy=True)
    for change, strength in changes:
        new.add_(change.delta(new), alpha=strength)
    result = torch.empty_like(weight).copy_(new)  # in the same memory layout
    if not all(end.isfinite() for end in result.aminmax()):  # an eighth of the time of asking every number
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
        point = (1,) * len(weight.shape[2:])
        down = change.down.reshape(change.down.shape[0], -1, *(weight.shape[2:] if change.core is None else point))
        up = change.up.float() * (strength * change.scale)
        self.down = _frozen(down, weight)
        self.core = None if change.core is None else _frozen(change.core, weight)
        self.up = _frozen(up.reshape(up.shape[0], -1, *point), weight)

    def linear(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.down), self.up)

    def convolution(self, x: Tensor, convolve: Callable[[Tensor, Tensor, None], Tensor]) -> Tensor:
        """`convolve` as the layer does: with the first factor, or with the core where there is one."""
        h = convolve(x, self.down, None) if self.core is None else convolve(F.conv2d(x, self.down), self.core, None)
        return F.conv2d(h, self.up)


def _frozen(factor: Tensor, like: Tensor) -> nn.Parameter:
    factor = factor.to(like.device, like.dtype, copy=True)  # the file may go
    if not factor.isfinite().all():
        raise SettingError(f"The LoRA holds numbers that are no numbers in {like.dtype}: lower its weight.")
    return nn.Parameter(factor, requires_grad=False)


class AdaptedLinear(nn.Linear):
    def __init__(self, base: nn.Linear, products: Iterable[nn.Module]) -> None:
        super().__init__(base.in_features, base.out_features, base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.products = nn.ModuleList(products)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        for product in cast("Iterable[Product]", self.products):
            y = y + product.linear(x)
        return y


class AdaptedConv2d(nn.Conv2d):
    def __init__(self, base: nn.Conv2d, products: Iterable[nn.Module]) -> None:
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
        for product in cast("Iterable[Product]", self.products):
            y = y + product.convolution(x, self._conv_forward)
        return y


def _with_products(base: nn.Module, changes: Changes) -> nn.Module:
    """A layer of the same weights; one that is adapted already keeps its products."""
    weight = cast("Tensor", base.weight)
    products = [*getattr(base, "products", ()), *(Product(c, s, weight) for c, s in changes if isinstance(c, LowRank))]
    return (
        AdaptedLinear(base, products)
        if isinstance(base, nn.Linear)
        else AdaptedConv2d(cast("nn.Conv2d", base), products)
    )
