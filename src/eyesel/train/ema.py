"""An exponential moving average of what is trained (Polyak & Juditsky 1992), as diffusers' EMAModel warms it up."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FILE = "ema.safetensors"


class Average:
    """Of the trainable parameters of a model; after step n it has moved by 1 - min(decay, (1 + n) / (10 + n))."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: parameter.detach().clone() for name, parameter in _trained(model)}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in _trained(model):
            self.weights[name].lerp_(parameter.to(self.weights[name].dtype), 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model with the averaged weights, for as long as the block lasts."""
        own = {name: parameter.detach().clone() for name, parameter in _trained(model)}
        self.copy_to(model)
        try:
            yield
        finally:
            _copy(own, model)

    def copy_to(self, model: nn.Module) -> None:
        _copy(self.weights, model)

    def save(self, folder: Path) -> None:
        save_file({name: tensor.cpu().contiguous() for name, tensor in self.weights.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        for name, tensor in load_file(folder / FILE).items():
            self.weights[name].copy_(tensor)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


@torch.no_grad()
def _copy(weights: dict[str, Tensor], model: nn.Module) -> None:
    for name, parameter in _trained(model):
        parameter.copy_(weights[name])
