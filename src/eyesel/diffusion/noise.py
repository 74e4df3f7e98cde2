"""Noise that belongs to its picture: one generator per image.

All that is drawn for an image, first latents and ancestral noise alike, comes from its own generator, in float32 on the
CPU. The same seed then gives the same picture alone or in a batch, on any device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from eyesel.diffusion.philox import PhiloxGenerator
from eyesel.errors import SettingError

RNGS = ("cpu", "philox")


@dataclass(frozen=True)
class Variation:
    """How far the first noise of image i goes from that of its own seed to that of `seeds[i]`, from 0 to 1."""

    seeds: Sequence[int]
    strength: float


class NoiseSource:
    """The generators of one batch: image i is made from `seeds[i]`.

    `rng` is "cpu", the noise of torch on the CPU, which diffusers and ComfyUI draw, or "philox", that of torch on CUDA,
    which AUTOMATIC1111 draws. A `variation` touches the first draw alone.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        rng: str = "cpu",
        variation: Variation | None = None,
    ) -> None:
        self.draws = [_generator(seed, rng) for seed in seeds]
        self.others = [] if variation is None else [_generator(seed, rng) for seed in variation.seeds]
        self.strength = 0.0 if variation is None else variation.strength
        self.device = device

    def draw(self, shape: Sequence[int]) -> Tensor:
        """Standard normal noise of `shape` (B, ...), B being the number of seeds."""
        batch, *rest = shape
        if batch != len(self.draws):
            raise SettingError(f"The batch holds {batch} images; there are {len(self.draws)} seeds.")
        noises = [draw(rest) for draw in self.draws]
        if self.others:
            noises = [
                spherical(own, other(rest), self.strength) for own, other in zip(noises, self.others, strict=True)
            ]
            self.others = []
        return torch.stack(noises).to(self.device)


def _generator(seed: int, rng: str) -> Callable[[Sequence[int]], Tensor]:
    if not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise SettingError(f"seed is {seed!r}; it must be a whole number from 0 to {2**64 - 1}.")
    if rng not in RNGS:
        raise SettingError(f"rng is {rng!r}; choose one of {', '.join(RNGS)}.")
    if rng == "philox":
        return PhiloxGenerator(seed).normal
    return partial(torch.randn, generator=torch.Generator("cpu").manual_seed(seed))


def spherical(a: Tensor, b: Tensor, share: float) -> Tensor:
    """From a to b, both (C, H, W), along great circles, which keep noise the variance that it has.

    As AUTOMATIC1111's variation seeds have it (`rng.py`, `slerp`): one circle for each column (C, W), and a straight
    line where a and b are as good as parallel.
    """
    dot = (a / a.norm(dim=1, keepdim=True) * (b / b.norm(dim=1, keepdim=True))).sum(1)  # (C, W)
    if dot.mean() > 0.9995:
        return torch.lerp(a, b, share)
    angle = dot.clamp(-1, 1).acos()
    straight = angle.sin() < 1e-4  # a column of one number has but two directions
    weights = [torch.where(straight, part, (part * angle).sin() / angle.sin()) for part in (1 - share, share)]
    return weights[0].unsqueeze(1) * a + weights[1].unsqueeze(1) * b
