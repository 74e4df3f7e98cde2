"""Low-rank layers that are trained beside frozen ones (Hu et al. 2021): W x + alpha / r · up (down x).

As PEFT initialises them for diffusers: `down` from a normal distribution of deviation 1 / r, `up` with zeros, so that
training begins from what the base does.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyesel.models.clip_text import ClipText
from eyesel.models.unet import SpatialTransformer, TransformerBlock, UNet
from eyesel.nn.attention import Attention
from eyesel.nn.layers import EncoderLayer


class LoraLinear(nn.Linear):
    """Parameters `down` (r, in) and `up` (out, r) besides those of the layer that it takes the place of."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__(base.in_features, base.out_features, base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.rank, self.alpha = rank, alpha
        self.down, self.up = _factors((rank, base.in_features), (base.out_features, rank), self.weight, generator)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.linear(F.linear(x, self.down), self.up) * (self.alpha / self.rank)


class LoraConv2d(nn.Conv2d):
    """`down` (r, in, kh, kw) convolves as the layer does, `up` (out, r, 1, 1) mixes: LoCon, as LyCORIS has it."""

    def __init__(self, base: nn.Conv2d, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__(
            base.in_channels,
            base.out_channels,
            base.kernel_size,  # type: ignore[arg-type]
            base.stride,  # type: ignore[arg-type]
            base.padding,  # type: ignore[arg-type]
            bias=base.bias is not None,
            device="meta",
        )
        self.weight, self.bias = base.weight, base.bias
        self.rank, self.alpha = rank, alpha
        down = (rank, base.in_channels, *base.kernel_size)
        self.down, self.up = _factors(down, (base.out_channels, rank, 1, 1), self.weight, generator)

    def forward(self, x: Tensor) -> Tensor:
        change = F.conv2d(self._conv_forward(x, self.down, None), self.up)
        return super().forward(x) + change * (self.alpha / self.rank)


Lora = LoraLinear | LoraConv2d


def _factors(
    down: tuple[int, ...], up: tuple[int, ...], like: Tensor, generator: torch.Generator
) -> tuple[nn.Parameter, nn.Parameter]:
    first = torch.randn(down, generator=generator) / down[0]
    return nn.Parameter(first.to(like)), nn.Parameter(torch.zeros(up).to(like))


def add_loras(
    model: UNet | ClipText, targets: str, rank: int, alpha: float, generator: torch.Generator
) -> dict[str, Lora]:
    """Put LoRA layers in the place of a model's own; what came where, by path. `targets` is one of `TARGETS`."""
    added: dict[str, Lora] = {}
    for path in list(dict.fromkeys(_paths(model, targets))):
        layer = model.get_submodule(path)
        owner, _, leaf = path.rpartition(".")
        kind = LoraLinear if isinstance(layer, nn.Linear) else LoraConv2d
        added[path] = kind(layer, rank, alpha, generator)  # type: ignore[arg-type]
        setattr(model.get_submodule(owner), leaf, added[path])
    return added


def _paths(model: nn.Module, targets: str) -> Iterator[str]:
    wider = targets != "attention"
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            yield from (f"{name}.{leaf}" for leaf in ("to_q", "to_k", "to_v", "to_out"))
        elif isinstance(module, TransformerBlock) and wider:
            yield from (f"{name}.ff.proj_in.proj", f"{name}.ff.proj_out")
        elif isinstance(module, SpatialTransformer) and wider:
            yield from (f"{name}.proj_in", f"{name}.proj_out")
        elif isinstance(module, EncoderLayer) and wider:
            yield from (f"{name}.mlp.fc1", f"{name}.mlp.fc2")
        elif targets == "all" and _in_a_block(name, module):
            yield name


def _in_a_block(name: str, module: nn.Module) -> bool:
    """Convolutions but the first and the last, and what residual blocks make of the timestep."""
    return (isinstance(module, nn.Conv2d) and "." in name) or name.endswith("time_emb_proj")
