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
    """Karras et al. 2022, algorithm 1: an Euler step, then once more with the mean of the slopes at both ends."""
    for i, sigma, sigma_next in schedule.intervals():
        denoised = clipped(denoise(x, sigma), clip)
        ahead = torch.lerp(denoised, x, sigma_next / sigma)
        if sigma_next > 0:
            slope = (x - denoised) / sigma
            denoised = clipped(denoise(ahead, sigma_next), clip)
            slope_ahead = (ahead - denoised) / sigma_next
            ahead = x + (sigma_next - sigma) * (slope + slope_ahead) / 2
        x = ahead
        yield Step(i, sigma_next, x, denoised)


def dpm2(denoise: Denoise, x: Tensor, schedule: Schedule, noise: NoiseSource, eta: float = 0.0) -> Iterator[Step]:
    """The midpoint method, its middle in log sigma: k-diffusion's DPM2, after DPM-Solver-2 (Lu et al. 2022, algorithm 1).

    The slope in the middle, (halfway - second) / middle, carries x all the way; written out, that is Euler's step and a
    correction.
    """
    for i, sigma, sigma_next in schedule.intervals():
        denoised = first = denoise(x, sigma)
        old, fresh = ancestral_split(sigma, sigma_next, eta)
        halfway_sigma = math.sqrt(sigma * old)
        if sigma_next > 0:
            halfway = torch.lerp(first, x, halfway_sigma / sigma)
            denoised = denoise(halfway, halfway_sigma)
        x = torch.lerp(first, x, old / sigma)
        if sigma_next > 0:
            x = x + (sigma - old) / halfway_sigma * (denoised - first)
        if fresh:
            x = x + fresh * noise.draw(x.shape)
        yield Step(i, sigma_next, x, denoised)


def dpmpp_2s(denoise: Denoise, x: Tensor, schedule: Schedule, noise: NoiseSource, eta: float = 0.0) -> Iterator[Step]:
    """DPM-Solver++(2S), Lu et al. 2022b, algorithm 1: D in the middle of the step, in log sigma, stands for all of it."""
    for i, sigma, sigma_next in schedule.intervals():
        denoised = denoise(x, sigma)
        old, fresh = ancestral_split(sigma, sigma_next, eta)
        if sigma_next > 0:
            halfway_sigma = math.sqrt(sigma * old)
            denoised = denoise(torch.lerp(denoised, x, halfway_sigma / sigma), halfway_sigma)
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
