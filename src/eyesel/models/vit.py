"""The Vision Transformer (Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words"): patches in, class scores out.

One network spans its descendants; what one of them adds is an optional part, off unless its config says so:

- DeiT (Touvron et al. 2020): a distillation token beside the class token, with a head of its own.
- DINO (Caron et al. 2021) is a ViT without a head.
- DINOv2 (Oquab et al. 2023): layer scale, SwiGLU, and register tokens (Darcet et al. 2023), which belong to no patch.
- timm's models: any of these, with or without a class token, pooled by its mean, the norm before or after pooling.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyesel.errors import CheckpointError, SettingError
from eyesel.fields import MOST, Count, Depth, check_fields
from eyesel.nn.attention import Tap
from eyesel.nn.layers import ACTIVATIONS, EncoderLayer
from eyesel.nn.replica import replica

Pool = Literal["cls", "mean", "none", "grid"]
MOST_PATCHES = 1 << 16  # attention between them all would not fit into any memory long before
POOLINGS = ("cls", "mean", "cls+mean", "pooler")


@dataclass(frozen=True)
class ViTConfig:
    """The shape of a ViT; the defaults are ViT-B/16 without a head.

    `image_size` is the (height, width) that the position embeddings were learned at; `classes` 0 means no head.
    `mlp_dim` is the hidden width, with `swiglu` that of its gate. Class, distillation and register tokens stand before
    the patches, in this order, and the first `prefix_positions` of them have a position. `embedding_norm` takes the
    place of the patches' bias (CLIP). The head sees the class token, the mean of the patches, one behind the other, or
    the class token through the pooler (`pooling`), and the final norm comes before that or after (`pooled_norm`).
    `resampling_antialias` and `resampling_offset` (in patches) are how the original resamples positions for other
    picture sizes.
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
    class_token: bool = True
    distillation_token: bool = False
    distillation_head: bool = False
    registers: Count = 0
    prefix_positions: Count = 1
    embedding_norm: bool = False
    layer_scale: bool = False
    swiglu: bool = False
    pooling: str = "cls"
    pooled_norm: bool = False
    resampling_antialias: bool = False
    resampling_offset: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dim % self.heads:
            raise CheckpointError(f"A ViT of width {self.dim} cannot be split into {self.heads} heads.")
        if self.image_size[0] % self.patch_size[0] or self.image_size[1] % self.patch_size[1]:
            raise CheckpointError(f"A ViT for {self.image_size} pixels cannot have patches of {self.patch_size}.")
        if self.activation not in ACTIVATIONS:
            raise CheckpointError(f"Activation {self.activation!r} is unknown; known are {', '.join(ACTIVATIONS)}.")
        if self.pooling not in POOLINGS:
            raise CheckpointError(f"Pooling {self.pooling!r} is unknown; known are {', '.join(POOLINGS)}.")
        if self.pooling != "mean" and not self.class_token:
            raise CheckpointError(f"A ViT without a class token cannot be pooled by {self.pooling!r}, only by 'mean'.")
        if self.pooling == "pooler" and not self.pooler:
            raise CheckpointError("A ViT without a pooler cannot be pooled by it.")
        if self.prefix_positions > self.prefix_tokens:
            raise CheckpointError(
                f"A ViT with {self.prefix_tokens} tokens before the patches cannot have {self.prefix_positions} "
                "positions for them."
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def prefix_tokens(self) -> int:
        """How many tokens stand before the patches."""
        return self.class_token + self.distillation_token + self.registers

    def at_size(self, image_size: int | tuple[int, int]) -> "ViTConfig":
        """The same for pictures of another (height, width), or of that many pixels both ways."""
        pair = image_size if isinstance(image_size, tuple) else (image_size, image_size)
        if len(pair) != 2 or not all(isinstance(side, int) and 0 < side <= MOST for side in pair):
            raise SettingError(f"image_size is {image_size!r}; it must be a number of pixels, or a height and a width.")
        if any(side % patch for side, patch in zip(pair, self.patch_size, strict=True)):
            nearest = [max(round(side / patch), 1) * patch for side, patch in zip(pair, self.patch_size, strict=True)]
            raise SettingError(
                f"image_size is {pair[1]}x{pair[0]} pixels, which are no whole patches of "
                f"{self.patch_size[1]}x{self.patch_size[0]}; the nearest is {nearest[1]}x{nearest[0]}."
            )
        other = replace(self, image_size=pair)
        if other.grid[0] * other.grid[1] > MOST_PATCHES:
            raise SettingError(f"image_size is {pair[1]}x{pair[0]} pixels, more than {MOST_PATCHES:,} patches.")
        return other


class ViT(nn.Module):
    """`logits(features(pixels))`; each step can be called alone.

    Pixels are (B, channels, H, W), normalised. Sizes other than the config's are served by resampling the position
    embeddings. Tokens are (B, T, dim), where T = prefix_tokens + N, and N is the number of patches.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        dim, eps = config.dim, config.norm_eps
        rows, columns = config.grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if config.class_token else None
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, dim)) if config.distillation_token else None
        self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, dim)) if config.registers else None
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.prefix_positions + rows * columns, dim))
        self.patch_embeddings = nn.Conv2d(
            config.channels, dim, config.patch_size, stride=config.patch_size, bias=not config.embedding_norm
        )
        self.embedding_norm = nn.LayerNorm(dim, eps=eps) if config.embedding_norm else nn.Identity()
        self.layers = nn.ModuleList(
            EncoderLayer(
                dim,
                config.heads,
                config.mlp_dim,
                config.activation,
                eps,
                config.qkv_bias,
                name=f"layers.{i}.attention",
                layer=i,
                swiglu=config.swiglu,
                layer_scale=config.layer_scale,
            )
            for i in range(config.depth)
        )
        self.norm = nn.Identity() if config.pooled_norm else nn.LayerNorm(dim, eps=eps)
        self.pooled_norm = nn.LayerNorm(dim, eps=eps) if config.pooled_norm else nn.Identity()
        self.pooler = nn.Linear(dim, dim) if config.pooler else None
        seen = 2 * dim if config.pooling == "cls+mean" else dim
        self.classifier = nn.Linear(seen, config.classes) if config.classes else None
        self.distillation_classifier = nn.Linear(dim, config.classes) if config.distillation_head else None

    def learned_positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings (1, prefix_positions + rows·columns, dim) of a grid of patches, resampled if it is not
        the learned.
        """
        if grid == self.config.grid:
            return self.position_embeddings
        prefix, patches = self.position_embeddings.tensor_split([self.config.prefix_positions], dim=1)
        learned = patches.unflatten(1, self.config.grid).permute(0, 3, 1, 2)  # (1, dim, rows, columns)
        offset = self.config.resampling_offset
        scale = tuple((new + offset) / old for new, old in zip(grid, self.config.grid, strict=True))
        # torch has no bicubic in half precision on every device
        resampled = F.interpolate(
            learned.float(),
            size=None if offset else grid,
            scale_factor=scale if offset else None,
            mode="bicubic",
            align_corners=False,
            antialias=self.config.resampling_antialias,
        ).to(patches.dtype)
        return torch.cat([prefix, resampled.flatten(2).transpose(1, 2)], dim=1)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """What is added to each token, (1, T, dim): zero for those before the patches that have no position."""
        learned, count = self.learned_positions(grid), self.config.prefix_positions
        without = self.config.prefix_tokens - count
        if not without:
            return learned
        return torch.cat([learned[:, :count], learned.new_zeros(1, without, self.config.dim), learned[:, count:]], 1)

    def embeddings(self, pixels: Tensor) -> Tensor:
        """Patch embeddings behind the other tokens, positions added: (B, channels, H, W) -> (B, T, dim)."""
        patches = self.patch_embeddings(pixels)  # (B, dim, rows, columns)
        prefix = [self.cls_token, self.distillation_token, self.register_tokens]
        tokens = [token.expand(len(patches), -1, -1) for token in prefix if token is not None]
        x = torch.cat([*tokens, patches.flatten(2).transpose(1, 2)], dim=1)  # (B, T, dim)
        return self.embedding_norm(x + self.positions((patches.shape[2], patches.shape[3])))

    def patch_grid(self, pixels: Tensor) -> tuple[int, int]:
        """Patches down and across of pixels (B, channels, H, W)."""
        height, width = pixels.shape[-2:]
        if height < self.config.patch_size[0] or width < self.config.patch_size[1]:
            raise SettingError(
                f"A picture of {height}x{width} pixels is smaller than one patch of {self.config.patch_size}."
            )
        return height // self.config.patch_size[0], width // self.config.patch_size[1]

    def hidden_states(self, pixels: Tensor, tap: Tap | None = None) -> Iterator[Tensor]:
        """The embeddings, then the output of each layer, each (B, T, dim) and before the final norm.

        Layers run as they are asked for: stop early and the rest costs nothing.
        """
        grid = self.patch_grid(pixels)
        x = self.embeddings(pixels)
        yield x
        for layer in self.layers:
            x = layer(x, tap=tap, grid=grid)
            yield x

    def features(self, pixels: Tensor, tap: Tap | None = None) -> Tensor:
        """All tokens after the final norm, unless that comes after pooling: (B, T, dim)."""
        for x in self.hidden_states(pixels, tap):
            last = x
        return self.norm(last)

    def pool(self, tokens: Tensor) -> Tensor:
        """What the head sees: (B, T, dim) -> (B, dim), or (B, 2·dim) where it sees two vectors."""
        if self.config.pooling == "pooler":
            return self.pooled(tokens)
        if self.config.pooling == "cls":
            return self.pooled_norm(tokens[:, 0])
        mean = tokens[:, self.config.prefix_tokens :].mean(dim=1)
        return self.pooled_norm(mean) if self.config.pooling == "mean" else torch.cat([tokens[:, 0], mean], dim=-1)

    def pooled(self, tokens: Tensor) -> Tensor:
        """The class token through the tanh pooler, which in-21k checkpoints have: (B, T, dim) -> (B, dim)."""
        if self.pooler is None:
            raise SettingError("This ViT has no pooler; use the class token or the mean of the patches instead.")
        return torch.tanh(self.pooler(tokens[:, 0]))

    def head(self, pooled: Tensor) -> Tensor:
        """Logits of what `pool` gives: (B, dim) -> (B, classes)."""
        if self.classifier is None:
            raise SettingError("This ViT has no classification head; it can embed but not classify.")
        return self.classifier(pooled)

    def logits(self, tokens: Tensor) -> Tensor:
        """(B, T, dim) -> (B, classes); with a distillation head, the mean of what the two heads say."""
        logits = self.head(self.pool(tokens))
        if self.distillation_classifier is None:
            return logits
        return (logits + self.distillation_classifier(tokens[:, 1])) / 2

    def forward(self, pixels: Tensor, tap: Tap | None = None) -> Tensor:
        return self.logits(self.features(pixels, tap))

    def vectors(self, pixels: Tensor, layers: Sequence[tuple[int, bool]], pool: Pool = "cls") -> Tensor:
        """Embeddings in float32, (B, L, ...), of layers (index as in `hidden_states`, through the final norm or not).

        `pool` takes the class token (..., dim), the mean of the patches (..., dim), all tokens (..., T, dim) or the
        patches alone (..., rows, columns, dim).
        """
        if pool == "cls" and not self.config.class_token:
            raise SettingError("This ViT has no class token; use the mean of the patches instead (pool 'mean').")
        wanted, grid = {index for index, _ in layers}, self.patch_grid(pixels)
        running = islice(enumerate(self.hidden_states(pixels)), max(wanted) + 1)
        states = {i: x for i, x in running if i in wanted}
        return torch.stack([self._vector(states[index], pool, normed, grid) for index, normed in layers], dim=1)

    def _vector(self, tokens: Tensor, pool: Pool, normed: bool, grid: tuple[int, int]) -> Tensor:
        x = self.norm(tokens) if normed else tokens
        if pool == "cls":
            x = x[:, 0]
        elif pool != "none":
            x = x[:, self.config.prefix_tokens :]
        if pool == "mean":
            x = x.float().mean(dim=1)
        if normed and self.config.pooled_norm:
            x = self.pooled_norm(x.to(tokens.dtype))
        return (x.unflatten(1, grid) if pool == "grid" else x).float()


def at_size(model: ViT, image_size: int | tuple[int, int]) -> ViT:
    """Another version, whose positions stand for pictures of (height, width); all other parameters are shared."""
    config = model.config.at_size(image_size)
    if config == model.config:
        return model
    with torch.no_grad():
        positions = model.learned_positions(config.grid)
    other = replica(model, lambda name, weight: positions if name == "position_embeddings" else weight)
    other.config = config
    return other
