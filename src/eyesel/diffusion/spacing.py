"""Which noise levels a run visits: the ways to choose `steps` of them, from much noise to little.

Three ways, from the three kinds of knowledge that they start from:

    SPACINGS    timesteps, evenly: table 2 of Lin et al. 2024, as diffusers lays them out
    STRETCHED   a curve from the largest sigma to the smallest
    PICKED      the training levels: the ways of ComfyUI and AUTOMATIC1111, and tables found by optimisation
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

SPACINGS = ("leading", "linspace", "trailing")


def spaced_timesteps(spacing: str, steps: int, total: int, offset: int, spare: int) -> Tensor:
    """(steps,) float64, descending: table 2 of Lin et al. 2024; `spare` points are laid out below the last one."""
    points = torch.arange(steps + spare, dtype=torch.float64)
    if spacing == "trailing":
        # The stride that numpy's arange uses (halves round differently with the exact one), but never a step too many.
        stride = total - (total - total / steps)
        return (total - points[:steps] * stride).round() - 1
    if spacing == "leading":
        grid = points * (total // len(points)) + offset
    else:  # One point alone lies at 0, so a single step without a spare point starts from almost no noise.
        grid = (points * ((total - 1) / max(len(points) - 1, 1))).clamp(max=total - 1)
    return grid.flip(0)[:steps]


def distilled_timesteps(steps: int, total: int, distilled: int) -> Tensor:
    """(steps,) float64, descending: an even choice among the timesteps that a consistency model was distilled on."""
    table = torch.arange(distilled, 0, -1, dtype=torch.float64) * (total // distilled) - 1
    return table[(torch.arange(steps, dtype=torch.float64) * (distilled / steps)).long()]


def ramp(steps: int) -> Tensor:
    """(steps,) float64 from 0 to 1; a single one is 0, the noisy end."""
    return torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)


def karras_sigmas(highest: float, lowest: float, steps: int) -> Tensor:
    """(steps,) float64, descending: Karras et al. 2022, equation 5, rho = 7."""
    rho = 7.0
    first, last = highest ** (1 / rho), lowest ** (1 / rho)
    return (first + ramp(steps) * (last - first)) ** rho


def exponential_sigmas(highest: float, lowest: float, steps: int) -> Tensor:
    """(steps,) float64, descending: even in log sigma."""
    first, last = math.log(highest), math.log(lowest)
    return (first + ramp(steps) * (last - first)).exp()


def beta_sigmas(highest: float, lowest: float, steps: int) -> Tensor:
    """(steps,) float64, descending: at quantiles of Beta(0.6, 0.6), dense at both ends (Lee et al. 2024)."""
    return lowest + beta_quantiles(1 - ramp(steps), 0.6) * (highest - lowest)


def beta_quantiles(p: Tensor, a: float) -> Tensor:
    """x such that a share p of the distribution Beta(a, a) lies below it; p (n,) in float64.

    Below 1/2 its mass is a power series, the integral of x^(a-1) (1-x)^(a-1) term by term, which gains a bit a term;
    above, the distribution is symmetric. Bisection inverts it.
    """
    n = torch.arange(64, dtype=torch.float64)
    series = torch.cat([n.new_ones(1), ((n[1:] - a) / n[1:]).cumprod(0)]) / (a + n)

    def mass(x: Tensor) -> Tensor:
        return x**a * (x[:, None] ** n @ series)

    low, high = torch.zeros_like(p), torch.full_like(p, 0.5)
    wanted = torch.minimum(p, 1 - p) * 2 * mass(high)
    for _ in range(60):
        middle = (low + high) / 2
        below = mass(middle) < wanted
        low, high = middle.where(below, low), high.where(below, middle)
    return low.where(p <= 0.5, 1 - low)


def normal_sigmas(levels: Tensor, steps: int) -> Tensor:
    """(steps,) float64, descending: even in timesteps from the last to the first; k-diffusion's own way."""
    return log_sigmas_at((len(levels) - 1) * (1 - ramp(steps)), levels).exp()


def sgm_uniform_sigmas(levels: Tensor, steps: int) -> Tensor:
    """(steps,) float64, descending: the same with a step more, whose last level, the first timestep, is left out."""
    return normal_sigmas(levels, steps + 1)[:steps]


def simple_sigmas(levels: Tensor, steps: int) -> Tensor:
    """(steps,) float64, descending: every (total / steps)th training level, counted from the noisy end."""
    back = (torch.arange(steps, dtype=torch.float64) * (len(levels) / steps)).long()
    return levels[len(levels) - 1 - back].double()


# Sabour et al. 2024, Align Your Steps: the sigmas of ten steps, from the authors' instructions at
# https://research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html
ALIGNED_SD1 = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
ALIGNED_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


def aligned_sigmas(table: tuple[float, ...], steps: int) -> Tensor:
    """(steps,) float64, descending: log-linear between the entries; the last of steps + 1 points is the run's end."""
    at = torch.arange(steps, dtype=torch.float64) * ((len(table) - 1) / steps)
    logs = torch.tensor(table, dtype=torch.float64).log()
    low = at.long()
    return (logs[low] + (at - low) * (logs[low + 1] - logs[low])).exp()


def log_sigmas_at(timesteps: Tensor, levels: Tensor) -> Tensor:
    """Of fractional timesteps, float64: linear in log sigma, as k-diffusion interpolates; `timesteps_at` inverts it."""
    logs = levels.log().double()
    low = timesteps.long().clamp(0, len(logs) - 2)
    return logs[low] + (timesteps - low) * (logs[low + 1] - logs[low])


STRETCHED: dict[str, Callable[[float, float, int], Tensor]] = {
    "karras": karras_sigmas,
    "exponential": exponential_sigmas,
    "beta": beta_sigmas,
}
PICKED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "normal": normal_sigmas,
    "sgm_uniform": sgm_uniform_sigmas,
    "simple": simple_sigmas,
    "align_your_steps": lambda levels, steps: aligned_sigmas(ALIGNED_SD1, steps),
    "align_your_steps_xl": lambda levels, steps: aligned_sigmas(ALIGNED_SDXL, steps),
}
SCHEDULES = (*STRETCHED, *PICKED, *SPACINGS)
