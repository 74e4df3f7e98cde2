"""Noise that belongs to its picture: one generator per image.

All that is drawn for an image, first latents and ancestral noise alike, comes from its own generator, in float32 on the
CPU. The same seed then gives the same picture alone or in a batch, on any device.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from eyesel.diffusion.philox import PhiloxGenerator
from eyesel.errors import SettingError

RNGS = ("cpu", "philox")


class NoiseSource:
    """The generators of one batch: image i is made from `seeds[i]`.

    `rng` is "cpu", the noise of torch on the CPU, which diffusers and ComfyUI draw, or "philox", that of torch on CUDA,
    which AUTOMATIC1111 draws.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu", rng: str = "cpu") -> None:
        for seed in seeds:
            if not isinstance(seed, int) or not 0 <= seed < 2**64:
                raise SettingError(f"seed is {seed!r}; it must be a whole number from 0 to {2**64 - 1}.")
        if rng not in RNGS:
            raise SettingError(f"rng is {rng!r}; choose one of {', '.join(RNGS)}.")
        self.draws: list[Callable[[Sequence[int]], Tensor]] = [
            PhiloxGenerator(seed).normal
            if rng == "philox"
            else partial(torch.randn, generator=torch.Generator("cpu").manual_seed(seed))
            for seed in seeds
        ]
        self.device = device

    def draw(self, shape: Sequence[int]) -> Tensor:
        """Standard normal noise of `shape` (B, ...), B being the number of seeds."""
        batch, *rest = shape
        if batch != len(self.draws):
            raise SettingError(f"The batch holds {batch} images; there are {len(self.draws)} seeds.")
        return torch.stack([draw(rest) for draw in self.draws]).to(self.device)
