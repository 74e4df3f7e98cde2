"""The autoencoder of latent diffusion (Rombach et al. 2022): pictures to latents an eighth their size, and back."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyesel.errors import CheckpointError
from eyesel.fields import Depth, Levels, check_fields
from eyesel.nn import bands
from eyesel.nn.attention import Attention
from eyesel.nn.layers import Downsample, ResnetBlock, Upsample, to_map, to_tokens


@dataclass(frozen=True)
class AutoencoderConfig:
    """The defaults are those of SD 1.x. Latents leave the encoder as (z - shift_factor) · scaling_factor."""

    image_channels: int = 3
    latent_channels: int = 4
    channels: Annotated[tuple[int, ...], Levels] = (128, 256, 512, 512)
    layers_per_block: Depth = 2
    norm_groups: int = 32
    mid_attention: bool = True
    quant_conv: bool = True
    post_quant_conv: bool = True
    scaling_factor: float = 0.18215
    shift_factor: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.scaling_factor:
            raise CheckpointError("scaling_factor is 0; latents are divided by it.")
        if any(c % self.norm_groups for c in self.channels):
            raise CheckpointError(f"Channels {self.channels} cannot be normalised in {self.norm_groups} groups.")

    @property
    def factor(self) -> int:
        """How many pixels one latent spans in each direction."""
        return 2 ** (len(self.channels) - 1)


NORM_EPS = 1e-6


class MidAttention(nn.Module):
    """One head over all positions, at the lowest resolution."""

    def __init__(self, channels: int, norm_groups: int, name: str) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(norm_groups, channels, eps=NORM_EPS)
        self.attention = Attention(channels, heads=1, name=name)

    def forward(self, x: Tensor) -> Tensor:
        grid = (x.shape[2], x.shape[3])
        return x + to_map(self.attention(to_tokens(self.group_norm(x)), grid=grid), grid)


class MidBlock(nn.Module):
    def __init__(self, channels: int, config: AutoencoderConfig, name: str) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, config.norm_groups, NORM_EPS) for _ in range(2))
        self.attentions = nn.ModuleList(
            [MidAttention(channels, config.norm_groups, name)] if config.mid_attention else []
        )

    def layers(self) -> list[nn.Module]:
        return [self.resnets[0], *self.attentions, self.resnets[1]]


class Stage(nn.Module):
    """The residual blocks of one resolution, and what leads to the next."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, norm_groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(in_channels if i == 0 else out_channels, out_channels, norm_groups, NORM_EPS)
            for i in range(layers)
        )


class DownStage(Stage):
    def __init__(self, in_channels: int, out_channels: int, layers: int, norm_groups: int, last: bool) -> None:
        super().__init__(in_channels, out_channels, layers, norm_groups)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(out_channels, asymmetric=True)])

    def layers(self) -> list[nn.Module]:
        return [*self.resnets, *self.downsamplers]


class UpStage(Stage):
    def __init__(self, in_channels: int, out_channels: int, layers: int, norm_groups: int, last: bool) -> None:
        super().__init__(in_channels, out_channels, layers, norm_groups)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(out_channels)])

    def layers(self) -> list[nn.Module]:
        return [*self.resnets, *self.upsamplers]


class Stack(nn.Module, ABC):
    """Layers between two convolutions, the last one normalised: what encoder and decoder have in common."""

    conv_in: nn.Conv2d
    conv_norm_out: nn.GroupNorm
    conv_out: nn.Conv2d

    @abstractmethod
    def layers(self) -> list[nn.Module]:
        """In the order in which they run."""

    @abstractmethod
    def largest(self, x: Tensor) -> int:
        """How many numbers the largest map holds, a picture."""

    def forward(self, x: Tensor) -> Tensor:
        if bands.pays(x, self.conv_in, self.largest(x)):
            return bands.run(self.conv_in, self.layers(), self.conv_norm_out, self.conv_out, x)
        x = self.conv_in(x)
        for layer in self.layers():
            x = layer(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Encoder(Stack):
    """Pictures (B, 3, H, W) to mean and log variance (B, 2·latent_channels, H/factor, W/factor)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels, top = config.channels, config.channels[-1]
        self.conv_in = nn.Conv2d(config.image_channels, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownStage(
                channels[max(i - 1, 0)], c, config.layers_per_block, config.norm_groups, last=i == len(channels) - 1
            )
            for i, c in enumerate(channels)
        )
        self.mid_block = MidBlock(top, config, name="encoder.mid_block.attentions.0")
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, top, eps=NORM_EPS)
        self.conv_out = nn.Conv2d(top, 2 * config.latent_channels, 3, padding=1)

    def layers(self) -> list[nn.Module]:
        return [layer for block in (*self.down_blocks, self.mid_block) for layer in block.layers()]

    def largest(self, x: Tensor) -> int:
        return self.conv_in.out_channels * x.shape[2] * x.shape[3]


class Decoder(Stack):
    """Latents (B, latent_channels, h, w) to pictures (B, 3, h·factor, w·factor)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels = config.channels[::-1]
        self.factor = config.factor
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid_block = MidBlock(channels[0], config, name="decoder.mid_block.attentions.0")
        self.up_blocks = nn.ModuleList(
            UpStage(
                channels[max(i - 1, 0)],
                c,
                config.layers_per_block + 1,
                config.norm_groups,
                last=i == len(channels) - 1,
            )
            for i, c in enumerate(channels)
        )
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, channels[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(channels[-1], config.image_channels, 3, padding=1)

    def layers(self) -> list[nn.Module]:
        return [layer for block in (self.mid_block, *self.up_blocks) for layer in block.layers()]

    def largest(self, x: Tensor) -> int:
        return self.conv_out.in_channels * x.shape[2] * x.shape[3] * self.factor**2


class Autoencoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        latents = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * latents, 2 * latents, 1) if config.quant_conv else None
        self.post_quant_conv = nn.Conv2d(latents, latents, 1) if config.post_quant_conv else None

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent Gaussian, unscaled, each (B, latent_channels, h, w)."""
        x = self.encoder(images.contiguous(memory_format=torch.channels_last))
        mean, log_variance = (x if self.quant_conv is None else self.quant_conv(x)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled latents of pictures (B, 3, H, W) in [-1, 1]: the mean, or with `noise` a draw from the Gaussian."""
        mean, log_variance = self.moments(images)
        z = mean if noise is None else mean + (log_variance / 2).exp() * noise
        return (z - self.config.shift_factor) * self.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), about [-1, 1], of scaled latents (B, latent_channels, h, w)."""
        z = latents / self.config.scaling_factor + self.config.shift_factor
        z = z.contiguous(memory_format=torch.channels_last)
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
