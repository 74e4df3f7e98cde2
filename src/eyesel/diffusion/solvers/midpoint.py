"""Solvers that look twice a step: at its start, and at a point ahead. The step to sigma = 0 is one look, Euler's."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from eyesel.diffusion.noise import NoiseSource
from eyesel.diffusion.schedule import Schedule
from eyesel.diffusion.solvers.step import Denoise, Step, ancestral_split, clipped


def heun(
    denoise: Denoise, x: Tensor, schedule: Schedule, noise: NoiseSource, clip: float | None = None
) -> Iterator[Step]:
    """Karras et al. 2022, algorithm 1: an Euler step, then once more with the mean of the slopes at both ends.

    The slopes differ by (first - denoised) / sigma_next: half of it, over the whole step, corrects Euler's.
    """
    for i, sigma, sigma_next in schedule.intervals():
        denoised = first = clipped(denoise(x, sigma), clip)
        x = torch.lerp(first, x, sigma_next / sigma)
        if sigma_next > 0:
            denoised = clipped(denoise(x, sigma_next), clip)
            x = x + (sigma - sigma_next) / (2 * sigma_next) * (denoised - first)
        yield Step(i, sigma_next, x, denoised)


def dpm2(denoise: Denoise, x: Tensor, schedule: Schedule, noise: NoiseSource, eta: float = 0.0) -> Iterator[Step]:
    """The midpoint method in log sigma: DPM2 of k-diffusion, after DPM-Solver-2 (Lu et al. 2022a, algorithm 1).

    The slopes differ by (first - denoised) / middle, which over the whole step corrects Euler's.
    """
    for i, sigma, sigma_next in schedule.intervals():
        denoised = first = denoise(x, sigma)
        old, fresh = ancestral_split(sigma, sigma_next, eta)
        end = torch.lerp(first, x, old / sigma)
        if sigma_next > 0:
            middle = math.sqrt(sigma * old)
            denoised = denoise(torch.lerp(first, x, middle / sigma), middle)
            end = end + (sigma - old) / middle * (denoised - first)
        x = end + fresh * noise.draw(x.shape) if fresh else end
        yield Step(i, sigma_next, x, denoised)


def dpmpp_2s(denoise: Denoise, x: Tensor, schedule: Schedule, noise: NoiseSource, eta: float = 0.0) -> Iterator[Step]:
    """DPM-Solver++(2S), Lu et al. 2022b, algorithm 1: D half way, in log sigma, stands for the whole step."""
    for i, sigma, sigma_next in schedule.intervals():
        denoised = denoise(x, sigma)
        old, fresh = ancestral_split(sigma, sigma_next, eta)
        if sigma_next > 0:
            middle = math.sqrt(sigma * old)
            denoised = denoise(torch.lerp(denoised, x, middle / sigma), middle)
        x = torch.lerp(denoised, x, old / sigma)
        if fresh:
            x = x + fresh * noise.draw(x.shape)
        yield Step(i, sigma_next, x, denoised)


def dpmpp_sde(denoise: Denoise, x: Tensor, schedule: Schedule, noise: NoiseSource, eta: float = 1.0) -> Iterator[Step]:
    """k-diffusion's DPM++ SDE: the same, ancestral in both halves, along one Brownian path in sigma.

    The noise of the whole step therefore contains that of its first half: with independent normals z_1, z_2 the half
    brings W_1 = sqrt(sigma - middle) z_1, the whole W_1 + sqrt(middle - sigma_next) z_2, each scaled to variance 1.
    k-diffusion takes the path from a Brownian tree; drawn in this order it has the same distribution.
    """
    for i, sigma, sigma_next in schedule.intervals():
        denoised = denoise(x, sigma)
        if sigma_next > 0:
            middle = math.sqrt(sigma * sigma_next)
            first_half = noise.draw(x.shape)
            old, fresh = ancestral_split(sigma, middle, eta)
            denoised = denoise(torch.lerp(denoised, x, old / sigma) + fresh * first_half, middle)

            path = math.sqrt(sigma - middle) * first_half + math.sqrt(middle - sigma_next) * noise.draw(x.shape)
            old, fresh = ancestral_split(sigma, sigma_next, eta)
            x = torch.lerp(denoised, x, old / sigma) + fresh / math.sqrt(sigma - sigma_next) * path
        else:
            x = denoised
        yield Step(i, sigma_next, x, denoised)
