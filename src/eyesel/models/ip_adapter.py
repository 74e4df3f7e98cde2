"""IP-Adapter (Ye et al. 2023): the networks that turn what CLIP sees in a picture into tokens for a UNet.

Three of them are around: one matrix ("plain"), a Perceiver resampler ("plus"), and a small MLP over each of CLIP's
tokens ("full face").
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, cat, nn, zeros, zeros_like

from eyesel.errors import CheckpointError
from eyesel.fields import Depth, check_fields
from eyesel.models.clip_vision import ImageFeatures
from eyesel.nn.attention import attention


@dataclass(frozen=True)
class PlainConfig:
    """From the projected class token (`image_dim`) to `tokens` tokens."""

    image_dim: int = 1024
    context_dim: int = 768
    tokens: int = 4

    def __post_init__(self) -> None:
        check_fields(self)


class PlainProjection(nn.Module):
    """One matrix, and a norm over each token."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.config = config
        self.proj = nn.Linear(config.image_dim, config.tokens * config.context_dim)
        self.norm = nn.LayerNorm(config.context_dim)

    def forward(self, seen: Tensor) -> Tensor:
        """(B, image_dim) -> (B, tokens, context_dim)."""
        return self.norm(self.proj(seen).unflatten(-1, (self.config.tokens, -1)))


@dataclass(frozen=True)
class FullFaceConfig:
    """From all of CLIP's tokens (`image_dim`) to as many."""

    image_dim: int = 1280
    context_dim: int = 768

    def __post_init__(self) -> None:
        check_fields(self)


class FullFaceProjection(nn.Module):
    def __init__(self, config: FullFaceConfig) -> None:
        super().__init__()
        self.config = config
        self.fc1 = nn.Linear(config.image_dim, config.image_dim)
        self.fc2 = nn.Linear(config.image_dim, config.context_dim)
        self.norm = nn.LayerNorm(config.context_dim)

    def forward(self, seen: Tensor) -> Tensor:
        """(B, N, image_dim) -> (B, N, context_dim)."""
        return self.norm(self.fc2(F.gelu(self.fc1(seen))))


@dataclass(frozen=True)
class PlusConfig:
    """From all of CLIP's tokens (`image_dim`) to `tokens` tokens; the defaults are those for SD 1.5."""

    image_dim: int = 1280
    dim: int = 768
    context_dim: int = 768
    tokens: int = 16
    depth: Depth = 4
    heads: int = 12
    head_dim: int = 64
    mlp_dim: int = 3072

    def __post_init__(self) -> None:
        check_fields(self)


class ResamplerLayer(nn.Module):
    """Latents look at a picture and at themselves, then each passes through an MLP (Alayrac et al. 2022, Flamingo)."""

    def __init__(self, config: PlusConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads = config.heads
        self.norm_image = nn.LayerNorm(config.dim)
        self.norm_latents = nn.LayerNorm(config.dim)
        self.to_q = nn.Linear(config.dim, inner, bias=False)
        self.to_k = nn.Linear(config.dim, inner, bias=False)
        self.to_v = nn.Linear(config.dim, inner, bias=False)
        self.to_out = nn.Linear(inner, config.dim, bias=False)
        self.norm_mlp = nn.LayerNorm(config.dim)
        self.fc1 = nn.Linear(config.dim, config.mlp_dim, bias=False)
        self.fc2 = nn.Linear(config.mlp_dim, config.dim, bias=False)

    def forward(self, latents: Tensor, image: Tensor) -> Tensor:
        queries = self.norm_latents(latents)
        context = cat([self.norm_image(image), queries], dim=1)  # (B, N + tokens, dim)
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.to_q(queries), self.to_k(context), self.to_v(context))
        )
        latents = latents + self.to_out(attention(q, k, v).transpose(1, 2).flatten(2))
        return latents + self.fc2(F.gelu(self.fc1(self.norm_mlp(latents))))


class Resampler(nn.Module):
    def __init__(self, config: PlusConfig) -> None:
        super().__init__()
        self.config = config
        self.latents = nn.Parameter(zeros(1, config.tokens, config.dim))
        self.proj_in = nn.Linear(config.image_dim, config.dim)
        self.layers = nn.ModuleList(ResamplerLayer(config) for _ in range(config.depth))
        self.proj_out = nn.Linear(config.dim, config.context_dim)
        self.norm_out = nn.LayerNorm(config.context_dim)

    def forward(self, seen: Tensor) -> Tensor:
        """(B, N, image_dim) -> (B, tokens, context_dim)."""
        image, latents = self.proj_in(seen), self.latents.expand(len(seen), -1, -1)
        for layer in self.layers:
            latents = layer(latents, image)
        return self.norm_out(self.proj_out(latents))


Projection = PlainProjection | FullFaceProjection | Resampler


@dataclass(frozen=True, eq=False)
class ImagePrompt:
    """What a UNet is told of one or more pictures."""

    tokens: Tensor  # (1, T, context_dim), those of several pictures one after the other
    nothing: Tensor  # (1, T, context_dim), in the pass without prompt

    def __post_init__(self) -> None:
        if not self.tokens.isfinite().all():
            raise CheckpointError("The tokens of the picture came out as no numbers: try the precision float32.")


def image_prompt(projection: Projection, pictures: ImageFeatures, nothing: ImageFeatures) -> ImagePrompt:
    """The tokens of pictures; `nothing` is what the encoder sees in a picture of zeros.

    Without prompt there is as much of it as there are pictures, and of a plain projection that of zeros (diffusers).
    """
    if isinstance(projection, PlainProjection):
        both = pictures.pooled, zeros_like(pictures.pooled)
    else:
        both = pictures.hidden, nothing.hidden.expand(len(pictures.hidden), -1, -1)
    tokens, zero = (projection(seen).flatten(0, 1).unsqueeze(0) for seen in both)  # (B, t, C) -> (1, B · t, C)
    return ImagePrompt(tokens, zero)
