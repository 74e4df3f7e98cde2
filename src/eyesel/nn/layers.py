"""The small parts that the four networks are assembled from. Tokens are (B, N, C); feature maps are (B, C, H, W)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyesel.nn.attention import Attention, Tap


def quick_gelu(x: Tensor) -> Tensor:
    """The approximation x · sigmoid(1.702 x) that OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


# By the names that the hub's config.json uses.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "quick_gelu": quick_gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
}


class MLP(nn.Module):
    def __init__(self, dim: int, hidden_dim: int, activation: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class SwiGLU(nn.Module):
    """An MLP whose hidden values are gated (Shazeer 2020, "GLU Variants Improve Transformer"); large DINOv2 has it."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden_dim)
        self.up = nn.Linear(dim, hidden_dim)
        self.down = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class LayerScale(nn.Module):
    """What a branch adds, weighted channel by channel (Touvron et al. 2021, "Going deeper with Image Transformers")."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer, the one that ViT and CLIP stack."""

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_dim: int,
        activation: str,
        norm_eps: float,
        qkv_bias: bool,
        name: str,
        layer: int,
        swiglu: bool = False,
        layer_scale: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attention = Attention(dim, heads, qkv_bias=qkv_bias, name=name, layer=layer)
        self.scale1 = LayerScale(dim) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = SwiGLU(dim, mlp_dim) if swiglu else MLP(dim, mlp_dim, activation)
        self.scale2 = LayerScale(dim) if layer_scale else nn.Identity()

    def forward(
        self, x: Tensor, mask: Tensor | None = None, tap: Tap | None = None, grid: tuple[int, int] | None = None
    ) -> Tensor:
        x = x + self.scale1(self.attention(self.norm1(x), mask=mask, tap=tap, grid=grid))
        return x + self.scale2(self.mlp(self.norm2(x)))


def sinusoidal_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """[cos(t ω), sin(t ω)] at dim/2 frequencies ω, in float32: (B,) -> (B, dim). Cosines first, as SD has it."""
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(max_period) / half))
    angles = t.float()[:, None] * frequencies  # (B, dim/2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepMLP(nn.Module):
    """From a sinusoidal embedding to the vector that every residual block receives."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions around a shortcut; between them the timestep's vector is added, if any."""

    def __init__(
        self, in_channels: int, out_channels: int, norm_groups: int, norm_eps: float, time_dim: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_groups, in_channels, eps=norm_eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, out_channels) if time_dim else None
        self.norm2 = nn.GroupNorm(norm_groups, out_channels, eps=norm_eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time_emb_proj is not None and time is not None:
            h = h + self.time_emb_proj(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nn.Module):
    """Halves height and width. The autoencoder pads on the right and below only, the UNet all round."""

    def __init__(self, channels: int, asymmetric: bool = False) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        edge = "constant" if self.conv.padding_mode == "zeros" else self.conv.padding_mode
        return self.conv(F.pad(x, (0, 1, 0, 1), mode=edge) if self.asymmetric else x)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement to `size`, or to twice as many rows and columns, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        size = (2 * x.shape[2], 2 * x.shape[3]) if size is None else size
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H·W, C); a view when x is channels-last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, H·W, C) -> (B, C, H, W) in channels-last memory, without a copy."""
    return x.unflatten(1, grid).permute(0, 3, 1, 2)
