"""The Vision Transformer (Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words"): patches in, class scores out."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyesel.errors import CheckpointError, SettingError
from eyesel.fields import Count, Depth, check_fields
from eyesel.nn.attention import Tap
from eyesel.nn.layers import ACTIVATIONS, EncoderLayer


@dataclass(frozen=True)
class ViTConfig:
    """The shape of a ViT; the defaults are ViT-B/16 without a head.

    `image_size` is the (height, width) that the position embeddings were learned at; `classes` 0 means no head.
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    channels: int = 3
    dim: int = 768
    depth: Depth = 12
    heads: int = 12
    mlp_dim: int = 3072
    qkv_bias: bool = True
    activation: str = "gelu"
    norm_eps: float = 1e-12
    pooler: bool = False
    classes: Count = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dim % self.heads:
            raise CheckpointError(f"A ViT of width {self.dim} cannot be split into {self.heads} heads.")
        if self.image_size[0] % self.patch_size[0] or self.image_size[1] % self.patch_size[1]:
            raise CheckpointError(f"A ViT for {self.image_size} pixels cannot have patches of {self.patch_size}.")
        if self.activation not in ACTIVATIONS:
            raise CheckpointError(f"Activation {self.activation!r} is unknown; known are {', '.join(ACTIVATIONS)}.")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]


class ViT(nn.Module):
    """`head(pool(features(pixels)))`; each step can be called alone.

    Pixels are (B, channels, H, W), normalised. Sizes other than the config's are served by resampling the position
    embeddings.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        rows, columns = config.grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + rows * columns, config.dim))
        self.patch_embeddings = nn.Conv2d(config.channels, config.dim, config.patch_size, stride=config.patch_size)
        self.layers = nn.ModuleList(
            EncoderLayer(
                config.dim,
                config.heads,
                config.mlp_dim,
                config.activation,
                config.norm_eps,
                config.qkv_bias,
                name=f"layers.{i}.attention",
                layer=i,
            )
            for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.pooler = nn.Linear(config.dim, config.dim) if config.pooler else None
        self.classifier = nn.Linear(config.dim, config.classes) if config.classes else None

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings (1, 1 + rows·columns, dim) of a grid of patches, resampled if it is not the learned."""
        if grid == self.config.grid:
            return self.position_embeddings
        cls, patches = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        learned = patches.unflatten(1, self.config.grid).permute(0, 3, 1, 2)  # (1, dim, rows, columns)
        # torch has no bicubic in half precision on every device
        resampled = F.interpolate(learned.float(), size=grid, mode="bicubic", align_corners=False).to(patches.dtype)
        return torch.cat([cls, resampled.flatten(2).transpose(1, 2)], dim=1)

    def embeddings(self, pixels: Tensor) -> Tensor:
        """Patch embeddings behind the class token, positions added: (B, channels, H, W) -> (B, 1 + N, dim)."""
        patches = self.patch_embeddings(pixels)  # (B, dim, rows, columns)
        x = patches.flatten(2).transpose(1, 2)  # (B, N, dim)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)  # (B, 1 + N, dim)
        return x + self.positions((patches.shape[2], patches.shape[3]))

    def hidden_states(self, pixels: Tensor, tap: Tap | None = None) -> Iterator[Tensor]:
        """The embeddings, then the output of each layer, each (B, 1 + N, dim) and before the final norm.

        Layers run as they are asked for: stop early and the rest costs nothing.
        """
        height, width = pixels.shape[-2:]
        if height < self.config.patch_size[0] or width < self.config.patch_size[1]:
            raise SettingError(
                f"A picture of {height}x{width} pixels is smaller than one patch of {self.config.patch_size}."
            )
        grid = height // self.config.patch_size[0], width // self.config.patch_size[1]
        x = self.embeddings(pixels)
        yield x
        for layer in self.layers:
            x = layer(x, tap=tap, grid=grid)
            yield x

    def features(self, pixels: Tensor, tap: Tap | None = None) -> Tensor:
        """All tokens after the final norm: (B, 1 + N, dim)."""
        for x in self.hidden_states(pixels, tap):
            last = x
        return self.norm(last)

    def pool(self, tokens: Tensor) -> Tensor:
        """The class token: (B, 1 + N, dim) -> (B, dim)."""
        return tokens[:, 0]

    def pooled(self, tokens: Tensor) -> Tensor:
        """The class token through the tanh pooler, which in-21k checkpoints have: (B, 1 + N, dim) -> (B, dim)."""
        if self.pooler is None:
            raise SettingError("This ViT has no pooler; use the class token or the mean of the patches instead.")
        return torch.tanh(self.pooler(self.pool(tokens)))

    def head(self, pooled: Tensor) -> Tensor:
        """Logits: (B, dim) -> (B, classes)."""
        if self.classifier is None:
            raise SettingError("This ViT has no classification head; it can embed but not classify.")
        return self.classifier(pooled)

    def forward(self, pixels: Tensor, tap: Tap | None = None) -> Tensor:
        return self.head(self.pool(self.features(pixels, tap)))
