"""A tap that keeps what every layer attends to."""

from collections.abc import Collection

import torch
from torch import Tensor

from eyesel.errors import SettingError
from eyesel.nn.attention import Site


class AttentionMaps:
    """Records the self-attention probabilities of one forward pass; hand it to a model as `tap`.

    `layers` are the layers to keep (default: all). One object serves one call; a second pass replaces the maps.
    """

    def __init__(self, layers: Collection[int] | None = None) -> None:
        self.layers = layers
        self._maps: dict[int, Tensor] = {}

    def wants(self, site: Site) -> bool:
        return not site.cross and (self.layers is None or site.layer in self.layers)

    def probs(self, site: Site, p: Tensor) -> Tensor:
        self._maps[site.layer] = p.detach().to("cpu", torch.float32, copy=True)
        return p

    def stacked(self) -> Tensor:
        """(layers, B, heads, tokens, tokens) float32 on the CPU, layers in ascending order.

        Raises `SettingError` where nothing was recorded or the layers have different numbers of tokens.
        """
        maps = [self._maps[layer] for layer in sorted(self._maps)]
        if not maps:
            raise SettingError("no attention was recorded: run a model with these maps as its tap, and layers it has.")
        shapes = {tuple(p.shape) for p in maps}
        if len(shapes) > 1:
            raise SettingError(f"layers of different shapes {sorted(shapes)} cannot be stacked: choose alike layers.")
        return torch.stack(maps)
