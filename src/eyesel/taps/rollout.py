"""Attention rollout: through all layers, how much of each input token is in each output token."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from eyesel.errors import SettingError

Fusion = Literal["mean", "max", "min"]

_FUSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda maps: maps.mean(-3),
    "max": lambda maps: maps.amax(-3),
    "min": lambda maps: maps.amin(-3),
}


def fuse(maps: Tensor, fusion: Fusion = "mean", discard_ratio: float = 0.0) -> Tensor:
    """Attention of several heads (..., heads, N, N) as one map (..., N, N), its weakest links cut.

    `discard_ratio` is the share, from 0 to below 1, of each fused map's N x N values that is set to zero, lowest
    first; what the first (class) token attends to in itself stays, as in github.com/jacobgil/vit-explain.
    """
    if fusion not in _FUSIONS:
        raise SettingError(f"fusion {fusion!r} is unknown: use one of {', '.join(_FUSIONS)}.")
    if not 0 <= discard_ratio < 1:
        raise SettingError(
            f"discard_ratio {discard_ratio} is out of range: use a share from 0 to below 1, such as 0.9."
        )
    fused = _FUSIONS[fusion](maps)
    count = int(discard_ratio * fused.shape[-1] * fused.shape[-2])
    if count == 0:
        return fused
    flat = fused.flatten(-2)
    cut = flat.scatter(-1, flat.topk(count, largest=False).indices, 0.0)
    cut[..., 0] = flat[..., 0]
    return cut.unflatten(-1, fused.shape[-2:])


def rollouts(maps: Tensor, fusion: Fusion = "mean", discard_ratio: float = 0.0) -> Tensor:
    """Attention followed through the layers, up to each of them (Abnar & Zuidema 2020, arXiv:2005.00928, section 3).

    (layers, ..., heads, N, N) in running order -> (layers, ..., N, N), whose rows sum to one: row i says what output
    token i of that layer is made of. Each layer counts as 0.5 A + 0.5 I, for the residual connection beside it.
    `fusion` and `discard_ratio` as in `fuse`.
    """
    layers = fuse(maps, fusion, discard_ratio)
    identity = torch.eye(layers.shape[-1], dtype=layers.dtype, device=layers.device)
    layers = 0.5 * layers + 0.5 * identity
    layers = layers / layers.sum(-1, keepdim=True)
    joint = [layers[0]]
    for layer in layers[1:]:
        joint.append(layer @ joint[-1])
    return torch.stack(joint)


def rollout(maps: Tensor, fusion: Fusion = "mean", discard_ratio: float = 0.0) -> Tensor:
    """`rollouts` through all layers: (layers, ..., heads, N, N) -> (..., N, N)."""
    return rollouts(maps, fusion, discard_ratio)[-1]


def attention_to_grid(row: Tensor, grid: tuple[int, int], prefix_tokens: int = 1) -> Tensor:
    """What one token attends to, (..., tokens), as a picture of patches (..., h, w); class and register tokens
    come first.
    """
    height, width = grid
    if row.shape[-1] != prefix_tokens + height * width:
        raise SettingError(
            f"{row.shape[-1]} tokens are not {prefix_tokens} and a grid of {height} x {width}: use the model's own."
        )
    return row[..., prefix_tokens:].unflatten(-1, (height, width))
