"""The one place where attention happens.

Every attention module of both halves ends in `attention(q, k, v, mask, tap, site)`. Without a tap it is torch's fused
kernel. A tap can look at the probabilities, replace tokens, queries, keys and values, or attend in its own way, at the
sites that it asks for and in that one call: it is an argument, so there is nothing to un-register and nothing that two
requests could share.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Site:
    """Where in a network an attention call stands.

    `name` is the module's path ("up_blocks.1.attentions.0.transformer_blocks.0.attn1"), `layer` counts the attention
    layers of that kind (self or cross) in the order in which they run, `grid` is the (height, width) of the query
    tokens, without the class token.
    """

    name: str
    layer: int
    cross: bool
    grid: tuple[int, int] | None


class Tap(Protocol):
    """Anything with `tokens`, `qkv`, `probs` or `attend`, at sites that it `wants`; only `probs` needs the softmax."""

    def wants(self, site: Site) -> bool: ...


@runtime_checkable
class TokensTap(Tap, Protocol):
    def tokens(self, site: Site, x: Tensor) -> Tensor:
        """Observe or replace the tokens x (B, N, dim) that attention reads: those behind the norm before it."""
        ...


@runtime_checkable
class ProbsTap(Tap, Protocol):
    def probs(self, site: Site, p: Tensor) -> Tensor:
        """Observe or edit the probabilities p (B, h, N, M); what it returns is used."""
        ...


@runtime_checkable
class QkvTap(Tap, Protocol):
    def qkv(self, site: Site, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Replace queries (B, h, N, d), keys and values (B, h, M, d)."""
        ...


@runtime_checkable
class AttendTap(Tap, Protocol):
    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What comes out, (B, h, N, d), of queries (B, h, N, d), keys and values (B, h, M, d) without a mask."""
        ...


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, tap: Tap | None = None, site: Site | None = None
) -> Tensor:
    """softmax(q kᵀ / sqrt(d) + mask) v (Vaswani et al. 2017, equation 1).

    Queries (B, h, N, d), keys and values (B, h, M, d); `mask` is boolean, True where a query may look; the result is
    (B, h, N, d).
    """
    if tap is not None and site is not None and tap.wants(site):
        if isinstance(tap, AttendTap):
            return tap.attend(site, q, k, v)
        if isinstance(tap, QkvTap):
            q, k, v = tap.qkv(site, q, k, v)
        if isinstance(tap, ProbsTap):
            scores = q.float() @ k.float().transpose(-2, -1) * q.shape[-1] ** -0.5  # (B, h, N, M)
            if mask is not None:
                scores = scores.masked_fill(~mask, float("-inf"))
            return (tap.probs(site, scores.softmax(-1)) @ v.float()).to(v.dtype)
    if mask is None and _rows_beat_the_fused_kernel(q, k, v):
        return _attention_by_rows(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _rows_beat_the_fused_kernel(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """torch's fused kernel multiplies bfloat16 as if it were float32, unless the CPU has matrix tiles."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or not q.shape[:2] == k.shape[:2] == v.shape[:2]:
        return False
    trained = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    return not trained and torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


_ROWS = 512
_SCORES = 1 << 22  # how many are held at a time: what a cache holds


def _attention_by_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same as plain products, a few hundred queries at a time so that their scores stay in the cache.

    Scores are rounded to the precision of q. What all keys have in common moves all scores of a row alike, which
    softmax ignores; without it they are smaller, and rounded less (Zhang et al. 2024, SageAttention).
    """
    k = k - k.mean(2, keepdim=True)
    heads, n, m, scale = q.shape[:2], q.shape[2], k.shape[2], q.shape[3] ** -0.5
    q, k, v = q.flatten(0, 1), k.transpose(2, 3).flatten(0, 1), v.flatten(0, 1)  # (B·h, N, d), (B·h, d, M), (B·h, M, d)
    out = v.new_empty(len(q), n, v.shape[2])
    rows = min(_ROWS, n)
    together = max(_SCORES // (rows * m), 1)
    for q_, k_, v_, out_ in zip(*(t.split(together) for t in (q, k, v, out)), strict=True):  # some heads
        buffer = q.new_empty(len(q_), rows, m)
        for queries, result in zip(q_.split(rows, 1), out_.split(rows, 1), strict=True):
            scores = buffer[:, : queries.shape[1]]
            torch.baddbmm(scores, queries, k_, beta=0, alpha=scale, out=scores)
            torch.bmm(torch.softmax(scores, -1, out=scores), v_, out=result)
    return out.unflatten(0, heads)


class Attention(nn.Module):
    """Multi-head attention of tokens (B, N, dim) over themselves, or over a context (B, M, context_dim)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        context_dim: int | None = None,
        qkv_bias: bool = True,
        name: str = "",
        layer: int = 0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.name, self.layer, self.cross = name, layer, context_dim is not None
        self.to_q = nn.Linear(dim, dim, bias=qkv_bias)
        self.to_k = nn.Linear(context_dim or dim, dim, bias=qkv_bias)
        self.to_v = nn.Linear(context_dim or dim, dim, bias=qkv_bias)
        self.to_out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        tap: Tap | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        site = None if tap is None else Site(self.name, self.layer, self.cross, grid)
        if site is not None and isinstance(tap, TokensTap) and tap.wants(site):
            x = tap.tokens(site, x)
        out = self.attend(self._heads(self.to_q(x)), x if context is None else context, mask, tap, site)
        return self.to_out(out.transpose(1, 2).flatten(2))  # (B, N, dim)

    def attend(self, q: Tensor, context: Tensor, mask: Tensor | None, tap: Tap | None, site: Site | None) -> Tensor:
        """What queries (B, h, N, d) find in a context (B, M, context_dim): (B, h, N, d)."""
        return attention(q, self._heads(self.to_k(context)), self._heads(self.to_v(context)), mask, tap, site)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, dim) -> (B, h, N, d)


def causal_mask(length: int, device: torch.device) -> Tensor:
    """(N, N), True where token i may look at token j <= i."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()
