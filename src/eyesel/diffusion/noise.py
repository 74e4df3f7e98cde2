"""Noise that belongs to its picture: one CPU generator per image.

All that is drawn for an image, first latents and ancestral noise alike, comes from its own generator, in float32 on the
CPU. The same seed then gives the same picture alone or in a batch, on any device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from eyesel.errors import SettingError


class NoiseSource:
    """The generators of one batch: image i is made from `seeds[i]`."""

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        for seed in seeds:
            if not isinstance(seed, int) or not 0 <= seed < 2**64:
                raise SettingError(f"seed is {seed!r}; it must be a whole number from 0 to {2**64 - 1}.")
        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self.device = device

    def draw(self, shape: Sequence[int]) -> Tensor:
        """Standard normal noise of `shape` (B, ...), B being the number of seeds."""
        batch, *rest = shape
        if batch != len(self.generators):
            raise SettingError(f"The batch holds {batch} images; there are {len(self.generators)} seeds.")
        return torch.stack([torch.randn(rest, generator=generator) for generator in self.generators]).to(self.device)
