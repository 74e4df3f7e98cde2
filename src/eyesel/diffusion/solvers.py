"""Solvers: from noise to a picture, one noise level after another.

Each is a generator `solver(denoise, x, schedule, noise)`: `denoise(x, sigma)` is the picture expected behind the noise,
x starts at `x_0 + sigma_0 epsilon` (float32), `noise` is where fresh noise is drawn, and after every step a `Step` is
handed to the caller, who shows a preview, counts, or stops. All work on x = x_0 + sigma epsilon, where the probability
flow is `dx/dsigma = (x - D(x, sigma)) / sigma` (Karras et al. 2022, equation 3). If D stayed the same, the exact answer
would be `x_next = D + (sigma_next / sigma) (x - D)`, or `lerp(D, x, sigma_next / sigma)`: no cancellation however large
sigma is. Every solver below is this line with a better guess for D, or with fresh noise in place of some of the old.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from eyesel.diffusion.noise import NoiseSource
from eyesel.diffusion.schedule import Schedule

Denoise = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True, eq=False)
class Step:
    """What a solver has after a step."""

    index: int
    sigma: float  # the noise left in x
    x: Tensor
    denoised: Tensor  # the picture expected at the end: a preview


def clipped(denoised: Tensor, clip: float | None) -> Tensor:
    return denoised if clip is None else denoised.clamp(-clip, clip)


def ancestral_split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """(old, fresh) with old^2 + fresh^2 = sigma_next^2: the noise that is kept, and the noise that is drawn anew.

    At eta = 1 the step is a draw from the DDPM posterior (Ho et al. 2020, equation 7); at eta = 0 all of the old noise
    is kept.
    """
    share = eta**2 * (1 - (sigma_next / sigma) ** 2)
    return sigma_next * math.sqrt(1 - share), sigma_next * math.sqrt(share)


def euler(denoise: Denoise, x: Tensor, schedule: Schedule, noise: NoiseSource) -> Iterator[Step]:
    """Euler's method on the probability flow (Karras et al. 2022, algorithm 1 without its correction)."""
    for i, sigma, sigma_next in schedule.intervals():
        denoised = denoise(x, sigma)
        x = torch.lerp(denoised, x, sigma_next / sigma)
        yield Step(i, sigma_next, x, denoised)


def euler_ancestral(denoise: Denoise, x: Tensor, schedule: Schedule, noise: NoiseSource) -> Iterator[Step]:
    """Euler down to less noise than asked for, then fresh noise on top."""
    for i, sigma, sigma_next in schedule.intervals():
        denoised = denoise(x, sigma)
        old, fresh = ancestral_split(sigma, sigma_next, eta=1.0)
        x = torch.lerp(denoised, x, old / sigma)
        if fresh:
            x = x + fresh * noise.draw(x.shape)
        yield Step(i, sigma_next, x, denoised)


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


def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    noise: NoiseSource,
    lower_order_final: bool = True,
    euler_at_final: bool = False,
    stochastic: bool = False,
) -> Iterator[Step]:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2: D extrapolated to the middle of the step in -log sigma.

    The last step is of first order if it ends at sigma = 0 (an infinite step), if `euler_at_final`, or, as
    `lower_order_final` means in diffusers, if there are fewer than 15 steps.
    """
    first_order_end = euler_at_final or (lower_order_final and len(schedule) < 15)
    previous, h_previous = None, 0.0
    for i, sigma, sigma_next in schedule.intervals():
        denoised = target = denoise(x, sigma)
        last = i == len(schedule) - 1
        h = math.log(sigma / sigma_next) if sigma_next > 0 else math.inf
        if previous is not None and h < math.inf and not (last and first_order_end):
            target = denoised + h / (2 * h_previous) * (denoised - previous)
        r = sigma_next / sigma
        if stochastic:  # of the old noise only the share r^2 is kept, and fresh noise fills the rest
            x = torch.lerp(target, x, r**2)
            if sigma_next > 0:
                x = x + sigma_next * math.sqrt(1 - r**2) * noise.draw(x.shape)
        else:
            x = torch.lerp(target, x, r)
        yield Step(i, sigma_next, x, denoised)
        previous, h_previous = denoised, h


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    noise: NoiseSource,
    lower_order_final: bool = True,
    euler_at_final: bool = False,
) -> Iterator[Step]:
    """SDE-DPM-Solver++(2M), Lu et al. 2022, equation 18: the same on the reverse-time diffusion instead of the flow."""
    return dpmpp_2m(denoise, x, schedule, noise, lower_order_final, euler_at_final, stochastic=True)


def unipc(denoise: Denoise, x: Tensor, schedule: Schedule, noise: NoiseSource) -> Iterator[Step]:
    """UniPC-2 (Zhao et al. 2023, algorithms 5 to 8, B(h) = e^h - 1): every D also corrects the step that led to it.

    Both halves of a step start from the same corrected x, with m0 = D there and m1 = D one step earlier; rho weighs the
    differences.
    """
    history: list[tuple[float, Tensor]] = []  # (sigma, D) of the last two steps
    start, order = x, 0
    for i, sigma, sigma_next in schedule.intervals():
        denoised = denoise(x, sigma)

        if history:  # the corrector: from `start` to this sigma once more, now that D here is known
            sigma_0, m0 = history[-1]
            h = math.log(sigma_0 / sigma)
            step = sigma / sigma_0 - 1  # e^-h - 1
            x = m0 + (step + 1) * (start - m0)
            if order == 1:
                x = x - step * 0.5 * (denoised - m0)
            else:
                sigma_1, m1 = history[-2]
                r1 = math.log(sigma_0 / sigma_1) / h
                phi_1 = -step / h - 1
                phi_2 = -phi_1 / h - 0.5
                rho_1 = (phi_1 - 2 * phi_2) / step / (1 - r1)
                rho_2 = phi_1 / step - rho_1
                x = x - step * (rho_1 / r1 * (m1 - m0) + rho_2 * (denoised - m0))

        start, order = x, min(2, i + 1, len(schedule) - i)  # the last step is of first order
        history = [*history[-1:], (sigma, denoised)]
        x = torch.lerp(denoised, start, sigma_next / sigma)
        if order == 2:
            sigma_1, m1 = history[-2]
            r1 = math.log(sigma / sigma_1) / math.log(sigma / sigma_next)
            x = x - (sigma_next / sigma - 1) * 0.5 / r1 * (m1 - denoised)
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
