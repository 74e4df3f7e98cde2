"""Solvers that look once a step, and remember what they saw."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from eyesel.diffusion.denoiser import to_denoised, to_prediction
from eyesel.diffusion.noise import NoiseSource
from eyesel.diffusion.schedule import Schedule
from eyesel.diffusion.solvers.step import Denoise, Step


def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    noise: NoiseSource,
    lower_order_final: bool = True,
    euler_at_final: bool = False,
    eta: float = 0.0,
) -> Iterator[Step]:
    """DPM-Solver++(2M), Lu et al. 2022b, algorithm 2: D extrapolated to the middle of the step in -log sigma.

    With eta it is SDE-DPM-Solver++(2M), their equation 18: the same on the reverse-time diffusion. The last step is of
    first order if it ends at sigma = 0 (an infinite step), if `euler_at_final`, or, as `lower_order_final` means in
    diffusers, if there are fewer than 15 steps.
    """
    first_order_end = euler_at_final or (lower_order_final and schedule.planned < 15)
    previous, h_previous = None, 0.0
    for i, sigma, sigma_next in schedule.intervals():
        denoised = target = denoise(x, sigma)
        last = i == len(schedule) - 1
        h = math.log(sigma / sigma_next) if sigma_next > 0 else math.inf
        if previous is not None and h < math.inf and not (last and first_order_end):
            target = denoised + h / (2 * h_previous) * (denoised - previous)
        r = sigma_next / sigma
        x = torch.lerp(
            target, x, r ** (1 + eta)
        )  # of the old noise the share r^eta is kept, fresh noise fills the rest
        if eta and sigma_next > 0:
            x = x + sigma_next * math.sqrt(1 - r ** (2 * eta)) * noise.draw(x.shape)
        yield Step(i, sigma_next, x, denoised)
        previous, h_previous = denoised, h


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


def deis(
    denoise: Denoise, x: Tensor, schedule: Schedule, noise: NoiseSource, lower_order_final: bool = True
) -> Iterator[Step]:
    """DEIS-2 in log rho (Zhang & Chen 2023, equation 15): the slope is a line in log sigma through the last two.

    Its weight w on the slope one step earlier is the integral over the step of the share that the line gives to it; the
    slope here has the rest, so that the step is Euler's and w times the difference.
    """
    previous: tuple[float, Tensor] | None = None  # (sigma, slope)
    for i, sigma, sigma_next in schedule.intervals():
        denoised = denoise(x, sigma)
        slope = (x - denoised) / sigma
        x = torch.lerp(denoised, x, sigma_next / sigma)
        last = i == len(schedule) - 1
        if previous is not None and not (last and lower_order_final and schedule.planned < 15):
            sigma_1, slope_1 = previous
            log_next = math.log(sigma_next / sigma) if sigma_next > 0 else 0.0
            w = (sigma_next * (log_next - 1) + sigma) / math.log(sigma_1 / sigma)
            x = x + w * (slope_1 - slope)
        previous = (sigma, slope)
        yield Step(i, sigma_next, x, denoised)


def lms(denoise: Denoise, x: Tensor, schedule: Schedule, noise: NoiseSource) -> Iterator[Step]:
    """The linear multistep method of k-diffusion: a cubic in sigma through the last four slopes, integrated.

    The weights of the slopes add up to the length of the step, so that it is Euler's and the weighted differences.
    """
    sigmas: list[float] = []
    slopes: list[Tensor] = []
    for i, sigma, sigma_next in schedule.intervals():
        denoised = denoise(x, sigma)
        sigmas, slopes = [sigma, *sigmas[:3]], [(x - denoised) / sigma, *slopes[:3]]
        x = torch.lerp(denoised, x, sigma_next / sigma)
        for weight, slope in zip(integrated_polynomials(sigmas, sigma_next)[1:], slopes[1:], strict=True):
            x = x + weight * (slope - slopes[0])
        yield Step(i, sigma_next, x, denoised)


def integrated_polynomials(nodes: Sequence[float], end: float) -> list[float]:
    """Integrals from nodes[0] to `end` of Lagrange's polynomials through up to four nodes.

    Gauss's two points are exact up to cubics.
    """
    middle, half = (end + nodes[0]) / 2, (end - nodes[0]) / 2
    points = (middle - half / math.sqrt(3), middle + half / math.sqrt(3))

    def polynomial(own: float, at: float) -> float:
        return math.prod((at - other) / (own - other) for other in nodes if other != own)

    return [half * sum(polynomial(node, point) for point in points) for node in nodes]


ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def pndm(denoise: Denoise, x: Tensor, schedule: Schedule, noise: NoiseSource) -> Iterator[Step]:
    """PLMS, the linear multistep half of PNDM (Liu et al. 2022, equation 12), as Stable Diffusion 1 ships it.

    It starts with a step of Heun's kind, the one step of two looks, in place of the paper's three Runge-Kutta steps of
    four. As in diffusers, what is extrapolated is the network's own prediction, be it epsilon or v.
    """
    kind, predictions = schedule.prediction_type, list[Tensor]()
    for i, sigma, sigma_next in schedule.intervals():
        denoised = denoise(x, sigma)
        predictions = [to_prediction(kind, denoised, x, sigma), *predictions[:3]]
        if i == 0 and len(schedule) > 1:
            ahead = torch.lerp(denoised, x, sigma_next / sigma)
            mean = (predictions[0] + to_prediction(kind, denoise(ahead, sigma_next), ahead, sigma_next)) / 2
        else:
            weights = ADAMS_BASHFORTH[len(predictions) - 1]
            mean = sum((w * p for w, p in zip(weights, predictions, strict=True)), torch.zeros_like(x))
        x = torch.lerp(to_denoised(kind, mean, x, sigma), x, sigma_next / sigma)
        yield Step(i, sigma_next, x, denoised)
