"""CLIP's text encoder (Radford et al. 2021): OpenAI's L, and OpenCLIP's H (SD 2) and bigG (SDXL)."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyesel.errors import CheckpointError
from eyesel.fields import Count, Depth, check_fields
from eyesel.nn.attention import causal_mask
from eyesel.nn.layers import ACTIVATIONS, EncoderLayer


@dataclass(frozen=True)
class ClipTextConfig:
    """The defaults are CLIP-L's. `eos_id` None: the end of text is the highest id in the vocabulary."""

    vocab_size: int = 49408
    max_length: int = 77
    dim: int = 768
    depth: Depth = 12
    heads: int = 12
    mlp_dim: int = 3072
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5
    eos_id: Count | None = None
    projection_dim: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dim % self.heads:
            raise CheckpointError(f"A text encoder of width {self.dim} cannot be split into {self.heads} heads.")
        if self.activation not in ACTIVATIONS:
            raise CheckpointError(f"Activation {self.activation!r} is unknown; known are {', '.join(ACTIVATIONS)}.")


@dataclass(frozen=True)
class TextFeatures:
    """What the painters use of a text."""

    hidden: Tensor  # (B, N, dim), the layer that was asked for, before the final norm
    pooled: Tensor  # (B, projection_dim or dim), the last layer at the end-of-text token


class ClipText(nn.Module):
    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.position_embedding = nn.Embedding(config.max_length, config.dim)
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
        self.final_layer_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.text_projection = (
            nn.Linear(config.dim, config.projection_dim, bias=False) if config.projection_dim else None
        )

    def embeddings(self, ids: Tensor, learned: Tensor | None = None) -> Tensor:
        """Token embeddings with their positions: (B, N) -> (B, N, dim), N at most `max_length`.

        A negative id -i stands for row i - 1 of `learned` (V, dim): the vectors of a textual inversion.
        """
        x = self.token_embedding(ids.clamp(min=0))
        if learned is not None:
            x = torch.where((ids < 0).unsqueeze(-1), F.embedding((-1 - ids).clamp(min=0), learned.to(x.dtype)), x)
        return x + self.position_embedding.weight[: ids.shape[1]]

    def hidden_states(self, ids: Tensor, learned: Tensor | None = None) -> Iterator[Tensor]:
        """The embeddings, then the output of each layer, each (B, N, dim) and before the final norm."""
        x = self.embeddings(ids, learned)
        mask = causal_mask(ids.shape[1], ids.device)
        yield x
        for layer in self.layers:
            x = layer(x, mask=mask)
            yield x

    def forward(self, ids: Tensor, clip_skip: int = 1, learned: Tensor | None = None) -> TextFeatures:
        """Features of the layer that is `clip_skip` from the end, 1 being the last; see `embeddings` for the rest."""
        states = deque(self.hidden_states(ids, learned), maxlen=clip_skip)
        last = self.final_layer_norm(states[-1])
        pooled = last[torch.arange(len(ids), device=ids.device), self.end_of_text(ids)]  # (B, dim)
        if self.text_projection is not None:
            pooled = self.text_projection(pooled)
        return TextFeatures(states[0], pooled)

    def end_of_text(self, ids: Tensor) -> Tensor:
        """The first end-of-text position of each row: (B, N) -> (B,)."""
        if self.config.eos_id is None:
            return ids.argmax(dim=1)
        return (ids == self.config.eos_id).int().argmax(dim=1)
