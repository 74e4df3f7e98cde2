"""Taps that stay in the graph of one forward pass, so that a class score can be followed back to what made it.

No parameter asks for a gradient: the graph begins at the first layer that is kept, and ends with the call.
"""

from collections.abc import Collection

import torch
from torch import Tensor

from eyesel.errors import SettingError
from eyesel.nn.attention import Site

SCALE = 1024.0  # so that small gradients are not lost in float16


class Traced:
    def __init__(self, layers: Collection[int]) -> None:
        self.layers = layers
        self._kept: dict[int, Tensor] = {}

    def wants(self, site: Site) -> bool:
        return not site.cross and site.layer in self.layers

    def keep(self, layer: int, x: Tensor) -> Tensor:
        """Remember x, a tensor of the pass, which goes on with it; the graph begins here if it has not yet."""
        self._kept[layer] = x if x.requires_grad else x.requires_grad_()
        return x

    def with_gradients(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """What was kept, and the gradient of a scalar `score` with respect to it.

        Both are (layers, B, ...) float32 on the CPU, layers in ascending order. The graph is used up.
        """
        if not self._kept:
            raise SettingError(
                "nothing was traced: run a model with this tap, with gradients enabled, and layers it has."
            )
        kept = [self._kept[layer] for layer in sorted(self._kept)]
        gradients = torch.autograd.grad(score * SCALE, kept)
        return _stacked(kept), _stacked(gradients) / SCALE


class TracedMaps(Traced):
    """The attention probabilities (B, heads, N, N) of `layers`: what gradient rollout reads."""

    def probs(self, site: Site, p: Tensor) -> Tensor:
        return self.keep(site.layer, p)


class TracedTokens(Traced):
    """The normed tokens (B, N, dim) before the attention of `layers`: what Grad-CAM reads. No softmax is paid for."""

    def tokens(self, site: Site, x: Tensor) -> Tensor:
        return self.keep(site.layer, x.view_as(x))  # what passes by the attention is not meant


def positive_evidence(maps: Tensor, gradients: Tensor) -> Tensor:
    """Attention times its gradient where that is positive: what speaks for a class (Chefer et al. 2021,
    arXiv:2103.15679, equation 5, before the mean over heads). Rolled out, it is the gradient rollout of
    github.com/jacobgil/vit-explain.
    """
    return (maps * gradients).clamp(min=0)


def class_activation(tokens: Tensor, gradients: Tensor, prefix_tokens: int) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2 without the ReLU).

    Tokens and gradients (..., N, dim) -> (..., N): each channel weighs as much as its gradient has in the mean over
    all patches.
    """
    weights = gradients[..., prefix_tokens:, :].mean(-2, keepdim=True)  # (..., 1, dim)
    return (tokens * weights).sum(-1)


def _stacked(tensors: Collection[Tensor]) -> Tensor:
    return torch.stack([x.detach().to("cpu", torch.float32) for x in tensors])
