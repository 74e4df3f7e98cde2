"""The conditional UNet of latent diffusion (Rombach et al. 2022): one config spans SD 1.x, 2.x and XL.

Module names are those of the diffusers format, leaves aside, so that a checkpoint reads like this file.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyesel.errors import CheckpointError, SettingError
from eyesel.fields import Depth, Layers, Levels, check_fields
from eyesel.nn.attention import Attention, Tap
from eyesel.nn.image_attention import Context
from eyesel.nn.layers import Downsample, ResnetBlock, TimestepMLP, Upsample, sinusoidal_embedding, to_map, to_tokens


@dataclass(frozen=True)
class UNetConfig:
    """One entry a level, from the highest resolution to the lowest; the defaults are SD 1.x.

    `transformer_depth` counts the transformer blocks behind each residual block (0: a level without attention).
    `heads` is the number of heads. SDXL adds two fields: `size_dim` is the width of the sinusoidal embedding of each
    of its six size numbers and `added_dim` the width of those six and the pooled prompt together.
    """

    in_channels: int = 4
    out_channels: int = 4
    channels: Annotated[tuple[int, ...], Levels] = (320, 640, 1280, 1280)
    layers_per_block: Depth = 2
    transformer_depth: tuple[Layers, ...] = (1, 1, 1, 0)
    mid_transformer_depth: Layers = 1
    heads: tuple[int, ...] = (8, 8, 8, 8)
    context_dim: int = 768
    linear_projection: bool = False
    norm_groups: int = 32
    norm_eps: float = 1e-5
    size_dim: int | None = None
    added_dim: int | None = None
    sample_size: Annotated[int, range(1, 1025)] = 64

    def __post_init__(self) -> None:
        check_fields(self)
        levels = len(self.channels)
        if len(self.transformer_depth) != levels or len(self.heads) != levels:
            raise CheckpointError(
                f"A UNet of {levels} levels needs as many transformer depths and head counts, "
                f"not {self.transformer_depth} and {self.heads}."
            )
        for width, heads in zip(self.channels, self.heads, strict=True):
            if width % self.norm_groups or width % heads:
                raise CheckpointError(
                    f"A UNet level of {width} channels cannot be split into {self.norm_groups} groups, {heads} heads."
                )
        blocks = self.layers_per_block * sum(1 + depth for depth in self.transformer_depth)
        if blocks > 2000:  # Stable Diffusion XL has 30
            raise CheckpointError(f"A UNet of {blocks:,} blocks on its way down is refused; 2,000 is the most.")
        if (self.size_dim is None) != (self.added_dim is None):
            raise CheckpointError("A UNet takes size conditioning with both size_dim and added_dim, or with neither.")


class GEGLU(nn.Module):
    """x W · gelu(x V) (Shazeer 2020), both products in one projection."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


# Tokens that go through a feed-forward together. On CPUs 512 to 4096 take three quarters of the time of all at once;
# accelerators want enough to do.
TOKENS_ON_CPU = 2048
TOKENS = 1 << 15


class FeedForward(nn.Module):
    """GEGLU and back, some tokens at a time: the hidden layer is eight times as wide as a token and the largest thing
    in a UNet, and it stays in the cache.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj_in = GEGLU(dim, 4 * dim)
        self.proj_out = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.flatten(0, 1).split(TOKENS_ON_CPU if x.device.type == "cpu" else TOKENS)  # (B · N, C) in pieces
        return torch.cat([self.proj_out(self.proj_in(part)) for part in parts]).view_as(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the prompt, feed-forward, each behind its own norm."""

    def __init__(self, dim: int, heads: int, context_dim: int, name: str, layer: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads, qkv_bias=False, name=f"{name}.attn1", layer=layer)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, heads, context_dim, qkv_bias=False, name=f"{name}.attn2", layer=layer)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, x: Tensor, context: Context, tap: Tap | None, grid: tuple[int, int]) -> Tensor:
        x = x + self.attn1(self.norm1(x), tap=tap, grid=grid)
        x = x + self.attn2(self.norm2(x), context, tap=tap, grid=grid)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map, around a shortcut.

    Both projections act on each position alone: SD 1.x stores them as 1x1 convolutions, SD 2.x and XL as matrices.
    """

    def __init__(
        self, channels: int, depth: int, heads: int, config: UNetConfig, name: str, layers: Iterator[int]
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.proj_in = self._projection(channels, config)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads, config.context_dim, f"{name}.transformer_blocks.{i}", next(layers))
            for i in range(depth)
        )
        self.proj_out = self._projection(channels, config)

    @staticmethod
    def _projection(channels: int, config: UNetConfig) -> nn.Module:
        return nn.Linear(channels, channels) if config.linear_projection else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Context, tap: Tap | None) -> Tensor:
        grid = (x.shape[2], x.shape[3])
        h = to_tokens(project(self.proj_in, self.norm(x)))  # (B, H·W, C)
        for block in self.transformer_blocks:
            h = block(h, context, tap, grid)
        return x + project(self.proj_out, to_map(h, grid))


def project(projection: nn.Module, x: Tensor) -> Tensor:
    """A 1x1 convolution or a matrix, applied to every position: (B, C, H, W) -> (B, C, H, W)."""
    if isinstance(projection, nn.Conv2d):
        return projection(x)
    return projection(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by a spatial transformer where the level attends."""

    def __init__(
        self,
        in_channels: list[int],
        channels: int,
        depth: int,
        heads: int,
        config: UNetConfig,
        name: str,
        layers: Iterator[int],
        down: bool = False,
        up: bool = False,
    ) -> None:
        super().__init__()
        time_dim = 4 * config.channels[0]
        self.resnets = nn.ModuleList(
            ResnetBlock(c, channels, config.norm_groups, config.norm_eps, time_dim) for c in in_channels
        )
        self.attentions = nn.ModuleList(
            SpatialTransformer(channels, depth, heads, config, f"{name}.attentions.{i}", layers)
            for i in range(len(in_channels) if depth else 0)
        )
        self.downsamplers = nn.ModuleList([Downsample(channels)] if down else [])
        self.upsamplers = nn.ModuleList([Upsample(channels)] if up else [])

    def step(self, i: int, x: Tensor, time: Tensor, context: Context, tap: Tap | None) -> Tensor:
        x = self.resnets[i](x, time)
        return self.attentions[i](x, context, tap) if len(self.attentions) else x


class MidBlock(nn.Module):
    """Residual block, spatial transformer, residual block, at the lowest resolution."""

    def __init__(self, config: UNetConfig, layers: Iterator[int]) -> None:
        super().__init__()
        channels, time_dim = config.channels[-1], 4 * config.channels[0]
        self.resnets = nn.ModuleList(
            ResnetBlock(channels, channels, config.norm_groups, config.norm_eps, time_dim) for _ in range(2)
        )
        depth, heads = config.mid_transformer_depth, config.heads[-1]
        self.attentions = nn.ModuleList(
            [SpatialTransformer(channels, depth, heads, config, "mid_block.attentions.0", layers)] if depth else []
        )

    def forward(self, x: Tensor, time: Tensor, context: Context, tap: Tap | None) -> Tensor:
        x = self.resnets[0](x, time)
        for attention in self.attentions:
            x = attention(x, context, tap)
        return self.resnets[1](x, time)


@dataclass(frozen=True)
class SizeConditioning:
    """What SDXL is told besides the prompt's tokens."""

    pooled: Tensor  # (B, projection_dim) of the second text encoder
    sizes: Tensor  # (B, 6): original height, width, crop top, left, target height, width; (B, 5) of refiners


class UNet(nn.Module):
    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, time_dim = config.channels, 4 * config.channels[0]
        levels = list(zip(channels, config.transformer_depth, config.heads, strict=True))
        layers = count()  # attention layers are numbered in the order in which they run

        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepMLP(channels[0], time_dim)
        self.add_embedding = TimestepMLP(config.added_dim, time_dim) if config.added_dim else None

        self.down_blocks = nn.ModuleList()
        skips = [channels[0]]  # channels of every feature map that the way up receives back
        for i, (width, depth, heads) in enumerate(levels):
            down = i < len(levels) - 1
            inputs = [channels[max(i - 1, 0)]] + [width] * (config.layers_per_block - 1)
            self.down_blocks.append(Level(inputs, width, depth, heads, config, f"down_blocks.{i}", layers, down=down))
            skips += [width] * (config.layers_per_block + down)

        self.mid_block = MidBlock(config, layers)

        self.up_blocks = nn.ModuleList()
        below = channels[-1]
        for i, (width, depth, heads) in enumerate(reversed(levels)):
            up = i < len(levels) - 1
            inputs = [skips.pop() + (below if j == 0 else width) for j in range(config.layers_per_block + 1)]
            self.up_blocks.append(Level(inputs, width, depth, heads, config, f"up_blocks.{i}", layers, up=up))
            below = width

        self.conv_norm_out = nn.GroupNorm(config.norm_groups, channels[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(channels[0], config.out_channels, 3, padding=1)

    def forward(
        self, x: Tensor, t: Tensor, context: Context, added: SizeConditioning | None = None, tap: Tap | None = None
    ) -> Tensor:
        """What the network predicts, (B, out_channels, h, w), of latents x (B, in_channels, h, w) at timesteps t (B,).

        `context` (B, M, context_dim) holds the prompt's tokens, or with adapters also those of pictures; `added` is
        needed by SDXL and refused by the others.
        """
        time = self.embed_time(t, x.dtype, added)  # (B, time_dim)
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        skips = [x]
        for level in cast("Iterable[Level]", self.down_blocks):
            for i in range(len(level.resnets)):
                x = level.step(i, x, time, context, tap)
                skips.append(x)
            for downsample in level.downsamplers:
                x = downsample(x)
                skips.append(x)
        x = self.mid_block(x, time, context, tap)
        for level in cast("Iterable[Level]", self.up_blocks):
            for i in range(len(level.resnets)):
                x = level.step(i, torch.cat([x, skips.pop()], dim=1), time, context, tap)
            for upsample in level.upsamplers:
                # the size of the map that comes next, which is odd where a level below rounded up
                x = upsample(x, size=(skips[-1].shape[2], skips[-1].shape[3]))
        return self.conv_out(F.silu(self.conv_norm_out(x)))

    def embed_time(self, t: Tensor, dtype: torch.dtype, added: SizeConditioning | None) -> Tensor:
        time = self.time_embedding(sinusoidal_embedding(t, self.config.channels[0]).to(dtype))
        if self.add_embedding is None:
            if added is not None:
                raise SettingError("This UNet takes no size conditioning: only SDXL does.")
            return time
        if added is None or self.config.size_dim is None:
            raise SettingError("This is an SDXL UNet: it needs the pooled prompt and the picture's sizes as `added`.")
        sizes = sinusoidal_embedding(added.sizes.flatten(), self.config.size_dim)  # (B·6, size_dim)
        sizes = sizes.view(len(added.sizes), -1).to(dtype)  # (B, 6·size_dim)
        return time + self.add_embedding(torch.cat([added.pooled.to(dtype), sizes], dim=-1))
