"""Solvers that look once a step, and remember nothing."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from eyesel.diffusion.noise import NoiseSource
from eyesel.diffusion.schedule import Schedule
from eyesel.diffusion.solvers.step import Denoise, Step, ancestral_split, clipped


def euler(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    noise: NoiseSource,
    clip: float | None = None,
    eta: float = 0.0,
) -> Iterator[Step]:
    """Euler's method on the probability flow (Karras et al. 2022, algorithm 1 without its correction).

    With eta it is the ancestral solver: Euler down to less noise than asked for, then fresh noise on top. At eta = 1
    that is DDPM (Ho et al. 2020, algorithm 2) on the levels visited, with `clip` as DDPM clips.
    """
    for i, sigma, sigma_next in schedule.intervals():
        denoised = clipped(denoise(x, sigma), clip)
        old, fresh = ancestral_split(sigma, sigma_next, eta)
        x = torch.lerp(denoised, x, old / sigma)
        if fresh:
            x = x + fresh * noise.draw(x.shape)
        yield Step(i, sigma_next, x, denoised)


def ddim(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    noise: NoiseSource,
    clip: float | None = None,
    eta: float = 0.0,
) -> Iterator[Step]:
    """Song et al. 2021, equation 12 (eta as in equation 16). Without clipping and eta it is Euler's method.

    Two habits of diffusers are kept, so that the pictures agree. Clipping touches the picture but not the noise that is
    kept. And the step length is always num_train_timesteps // n, so that under linspace and trailing spacing a step may
    end a little beside the next timestep; the variance-preserving latent, x / sqrt(sigma^2 + 1), is carried over as is.
    """
    arrivals = schedule.arrivals.tolist()
    for i, sigma, sigma_next in schedule.intervals():
        denoised = denoise(x, sigma)
        old, fresh = ancestral_split(sigma, arrivals[i], eta)
        kept = (old / sigma) * (x - denoised)
        denoised = clipped(denoised, clip)
        x = denoised + kept
        if fresh:
            x = x + fresh * noise.draw(x.shape)
        x = x * math.sqrt((sigma_next**2 + 1) / (arrivals[i] ** 2 + 1))
        yield Step(i, sigma_next, x, denoised)


def lcm(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    noise: NoiseSource,
    clip: float | None = None,
    timestep_scaling: float = 10.0,
) -> Iterator[Step]:
    """Latent consistency models (Luo et al. 2023, algorithm 3): jump to the picture, add less noise, jump again."""
    sigma_data = 0.5
    for i, sigma, sigma_next in schedule.intervals():
        scaled = timestep_scaling * schedule.timesteps[i].item()
        c_skip = sigma_data**2 / (scaled**2 + sigma_data**2)
        c_out = scaled / math.sqrt(scaled**2 + sigma_data**2)
        denoised = c_out * clipped(denoise(x, sigma), clip) + c_skip * x / math.sqrt(sigma**2 + 1)
        x = denoised if sigma_next == 0 else denoised + sigma_next * noise.draw(x.shape)
        yield Step(i, sigma_next, x, denoised)


def tcd(denoise: Denoise, x: Tensor, schedule: Schedule, noise: NoiseSource, eta: float = 0.3) -> Iterator[Step]:
    """Trajectory consistency models (Zheng et al. 2024, algorithm 4): jump beyond the next level, then add noise back.

    `eta`, their gamma, is how far beyond: from timestep t to (1 - eta) t.
    """
    goals = torch.cat([schedule.timesteps[1:], torch.zeros(1)])
    beyond = schedule.levels[((1 - eta) * goals).long()].tolist()
    for i, sigma, sigma_next in schedule.intervals():
        denoised = denoise(x, sigma)
        landing = min(beyond[i], sigma_next)
        x = torch.lerp(denoised, x, landing / sigma)
        if landing < sigma_next:
            x = x + math.sqrt(sigma_next**2 - landing**2) * noise.draw(x.shape)
        yield Step(i, sigma_next, x, denoised)
