"""DDIM inversion: from a picture up to the noise from which a deterministic solver paints it again.

A step down from sigma to sigma' is `x' = x + (sigma' - sigma) e(x, sigma)`, with the noise `e = (x - D(x, sigma)) /
sigma` (Song et al. 2021, equation 12). Its inverse has x on both sides, so it is found by iterating: the noise of the
step before gives the first guess, and every further look at the network a better one (Pan et al. 2023, AIDI). The
usual inversion takes the noise at the lower level for that at the upper one, which is not exact and leaves too little.

Up to pure noise (zero terminal SNR) there is nothing to invert: at an infinite sigma x says nothing of the picture any
more. `finite` leaves such a level out, so that a run begins at the last one that still holds a picture.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from eyesel.diffusion.schedule import NoiseSchedule, Schedule
from eyesel.diffusion.solvers import Denoise, Step

MOST_SIGMA = 1000.0  # Stable Diffusion's betas end at 14.6, the DDPM paper's at 157


def finite(schedule: Schedule) -> Schedule:
    """The run without levels at which a picture is lost, and with every step ending where the next one begins."""
    steps = max(int((schedule.sigmas[:-1] <= MOST_SIGMA).sum()), 1)
    schedule = schedule.last(steps)
    return replace(schedule, arrivals=schedule.sigmas[1:])


def invert(denoise: Denoise, x: Tensor, schedule: Schedule, looks: int = 1) -> Iterator[Step]:
    """The steps of `schedule` upwards, from clean latents x (B, C, h, w) to `sigmas[0]`: one `Step` for each level.

    `looks` is how often the network is asked in each step; one, at what the step before predicts, costs as much as the
    usual inversion.
    """
    noise = torch.zeros_like(x)
    for index, (start, end) in enumerate(pairwise(reversed(schedule.sigmas.tolist()))):
        guess = x + (end - start) * noise
        for _ in range(looks):
            denoised = denoise(guess, end)
            noise = (guess - denoised) / end
            guess = x + (end - start) * noise
        x = guess
        yield Step(index, end, x, denoised)


def reference_schedule(training: NoiseSchedule, levels: Tensor, steps: int) -> Schedule:
    """The run of StyleID's reference code: timesteps 1, 1 + c, ... with c = total // steps, ending at timestep 0."""
    stride = max(training.num_train_timesteps // steps, 1)
    timesteps = torch.arange(1, training.num_train_timesteps - 1, stride).flip(0)
    sigmas = levels[torch.cat([timesteps, torch.zeros(1, dtype=torch.long)])]
    return Schedule(sigmas, timesteps.float(), sigmas[1:], levels, training.prediction_type, len(timesteps))


def invert_as_reference(denoise: Denoise, x: Tensor, schedule: Schedule) -> Iterator[Step]:
    """The inversion of StyleID's reference code: the noise at the lower level is taken for the whole step.

    The clean latents count as those of the lowest timestep that the run visits; the last step goes to the last timestep
    of all, above the level at which the run begins.
    """
    upwards = [*reversed(schedule.sigmas[:-1].tolist()), schedule.levels[-1].item()]
    x = x * (upwards[0] ** 2 + 1) ** 0.5
    for index, (start, end) in enumerate(pairwise(upwards)):
        denoised = denoise(x, start)
        yield Step(index, start, x, denoised)
        x = torch.lerp(denoised, x, end / start)
    yield Step(index + 1, end, x, denoised)
