"""CLIP's image encoder (Radford et al. 2021): a ViT with a norm before its layers, and a projection behind them."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eyesel.errors import CheckpointError
from eyesel.fields import Depth, check_fields
from eyesel.nn.attention import Tap
from eyesel.nn.layers import ACTIVATIONS, EncoderLayer


@dataclass(frozen=True)
class ClipVisionConfig:
    """The defaults are those of OpenCLIP's ViT-H/14; pictures are square, `image_size` pixels wide."""

    image_size: int = 224
    patch_size: int = 14
    channels: int = 3
    dim: int = 1280
    depth: Depth = 32
    heads: int = 16
    mlp_dim: int = 5120
    activation: str = "gelu"
    norm_eps: float = 1e-5
    projection_dim: int = 1024

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dim % self.heads:
            raise CheckpointError(f"An image encoder of width {self.dim} cannot be split into {self.heads} heads.")
        if self.patch_size > self.image_size:
            raise CheckpointError(
                f"An image encoder for {self.image_size} pixels cannot have patches of {self.patch_size}."
            )
        if self.activation not in ACTIVATIONS:
            raise CheckpointError(f"Activation {self.activation!r} is unknown; known are {', '.join(ACTIVATIONS)}.")

    @property
    def grid(self) -> tuple[int, int]:
        side = self.image_size // self.patch_size
        return side, side


@dataclass(frozen=True)
class ImageFeatures:
    """What is used of a picture."""

    hidden: Tensor  # (B, 1 + N, dim), the class token and the patches, of the layer before the last
    pooled: Tensor  # (B, projection_dim)


class ClipVision(nn.Module):
    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        self.config = config
        rows, columns = config.grid
        self.cls_token = nn.Parameter(torch.zeros(config.dim))
        self.patch_embeddings = nn.Conv2d(
            config.channels, config.dim, config.patch_size, stride=config.patch_size, bias=False
        )
        self.position_embeddings = nn.Parameter(torch.zeros(1 + rows * columns, config.dim))
        self.norm_in = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.layers = nn.ModuleList(
            EncoderLayer(
                config.dim,
                config.heads,
                config.mlp_dim,
                config.activation,
                config.norm_eps,
                qkv_bias=True,
                name=f"layers.{i}.attention",
                layer=i,
            )
            for i in range(config.depth)
        )
        self.norm_out = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.projection = nn.Linear(config.dim, config.projection_dim, bias=False)

    def embeddings(self, pixels: Tensor) -> Tensor:
        """Patch embeddings behind the class token, positions added: (B, channels, H, W) -> (B, 1 + N, dim)."""
        patches = self.patch_embeddings(pixels).flatten(2).transpose(1, 2)  # (B, N, dim)
        x = torch.cat([self.cls_token.expand(len(patches), 1, -1), patches], dim=1)  # (B, 1 + N, dim)
        return x + self.position_embeddings

    def hidden_states(self, pixels: Tensor, tap: Tap | None = None) -> Iterator[Tensor]:
        """The normed embeddings, then the output of each layer, each (B, 1 + N, dim)."""
        x = self.norm_in(self.embeddings(pixels))
        yield x
        for layer in self.layers:
            x = layer(x, tap=tap, grid=self.config.grid)
            yield x

    def forward(self, pixels: Tensor, tap: Tap | None = None) -> ImageFeatures:
        """Features of normalised pixels (B, channels, image_size, image_size)."""
        before, last = deque(self.hidden_states(pixels, tap), maxlen=2)
        return ImageFeatures(before, self.projection(self.norm_out(last[:, 0])))
