"""Schedules: how much noise each training timestep carries, and a run over some of those levels.

Training mixes a picture with noise, `x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) epsilon` (Ho et al. 2020,
equation 4). Divided by `sqrt(alpha_bar_t)` this is `x = x_0 + sigma epsilon` with `sigma = sqrt((1 - alpha_bar) /
alpha_bar)`, the variance-exploding form of Karras et al. 2022. Solvers think only in sigma; only the network needs to
hear of timesteps.

Constants are computed in the precision and the order in which diffusers computes them, so that both agree to the last
bits.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any

import torch
from torch import Tensor

from eyesel.errors import SettingError
from eyesel.fields import MOST, check_fields

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise SettingError(f"{name} is {value!r}; choose one of {', '.join(map(str, choices))}.")


def cosine_betas(total: int) -> Tensor:
    """Nichol & Dhariwal 2021, equation 17, each beta capped at 0.999."""

    def alpha_bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    return torch.tensor([min(1 - alpha_bar((i + 1) / total) / alpha_bar(i / total), 0.999) for i in range(total)])


def rescale_to_zero_snr(betas: Tensor) -> Tensor:
    """Lin et al. 2024, algorithm 1: shift and stretch sqrt(alpha_bar) until the last timestep is all noise."""
    roots = (1 - betas).cumprod(0).sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    alpha_bars = ((roots - last) * (first / (first - last))) ** 2
    alphas = torch.cat([alpha_bars[:1], alpha_bars[1:] / alpha_bars[:-1]])
    return 1 - alphas


@dataclass(frozen=True)
class NoiseSchedule:
    """What the network was trained on; the fields are named as in scheduler_config.json."""

    num_train_timesteps: Annotated[int, range(2, MOST + 1)] = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    trained_betas: tuple[float, ...] | None = None
    rescale_betas_zero_snr: bool = False
    prediction_type: str = "epsilon"

    def __post_init__(self) -> None:
        check_fields(self, SettingError)
        check_choice("beta_schedule", self.beta_schedule, BETA_SCHEDULES)
        check_choice("prediction_type", self.prediction_type, PREDICTION_TYPES)
        for name, beta in (("beta_start", self.beta_start), ("beta_end", self.beta_end)):
            if not 0 < beta < 1:
                raise SettingError(f"{name} is {beta!r}; it must lie between 0 and 1.")
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise SettingError(
                f"trained_betas holds {len(self.trained_betas)} values; "
                f"num_train_timesteps asks for {self.num_train_timesteps}."
            )

    @cached_property
    def betas(self) -> Tensor:
        start, end, total = self.beta_start, self.beta_end, self.num_train_timesteps
        if self.trained_betas is not None:
            betas = torch.tensor(self.trained_betas, dtype=torch.float32)
        elif self.beta_schedule == "linear":
            betas = torch.linspace(start, end, total, dtype=torch.float32)
        elif self.beta_schedule == "scaled_linear":
            betas = torch.linspace(start**0.5, end**0.5, total, dtype=torch.float32) ** 2
        else:
            betas = cosine_betas(total)
        return rescale_to_zero_snr(betas) if self.rescale_betas_zero_snr else betas

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """alpha_bar of every timestep; with zero terminal SNR the last one is exactly 0."""
        return (1 - self.betas).cumprod(0)

    def sigmas(self, terminal_alpha_bar: float) -> Tensor:
        """sigma of every timestep, ascending; `terminal_alpha_bar` replaces an alpha_bar of 0 (infinite sigma)."""
        alpha_bars = self.alphas_cumprod.where(self.alphas_cumprod > 0, terminal_alpha_bar)
        return ((1 - alpha_bars) / alpha_bars) ** 0.5


@dataclass(frozen=True, eq=False)
class Schedule:
    """The noise levels that one run visits: n steps take `sigmas[0]` to `sigmas[n]`."""

    sigmas: Tensor  # (n + 1,) float32
    timesteps: Tensor  # (n,) float32: what the network is told at sigmas[:n]
    arrivals: Tensor  # (n,) float32: where step i really ends; sigmas[1:] except for DDIM's fixed stride
    levels: Tensor  # (num_train_timesteps,) float32: sigma of every training timestep
    prediction_type: str
    planned: int  # the steps of the whole run, of which these may be only the last

    def __len__(self) -> int:
        return len(self.timesteps)

    def last(self, steps: int) -> "Schedule":
        """The end of the run: what is left of it for a picture that is to be changed, not made from nothing."""
        return replace(
            self,
            sigmas=self.sigmas[-steps - 1 :],
            timesteps=self.timesteps[-steps:],
            arrivals=self.arrivals[-steps:],
        )

    def intervals(self) -> Iterator[tuple[int, float, float]]:
        """(i, sigma_i, sigma_i+1) of each step."""
        for i, (sigma, sigma_next) in enumerate(pairwise(self.sigmas.tolist())):
            yield i, sigma, sigma_next

    def step(self, sigma: float) -> int:
        """The index of the step during which this noise level is met: it starts at or above it, the next one below."""
        return max(sum(own >= sigma for own in self.sigmas[:-1].tolist()) - 1, 0)

    def timestep(self, sigma: float) -> float:
        """What the network is told at this noise level."""
        for own, timestep in zip(self.sigmas.tolist(), self.timesteps.tolist(), strict=False):
            if sigma == own:
                return timestep
        return timesteps_at(torch.tensor([sigma], dtype=torch.float64), self.levels).item()


def sigmas_at(timesteps: Tensor, levels: Tensor) -> Tensor:
    """Sigmas of fractional timesteps, float64: linear between neighbours."""
    levels = levels.double()
    low = timesteps.long().clamp(0, len(levels) - 2)
    return levels[low] + (timesteps - low) * (levels[low + 1] - levels[low])


def timesteps_at(sigmas: Tensor, levels: Tensor) -> Tensor:
    """Fractional timesteps of sigmas, float64: the inverse, linear in log sigma."""
    log_levels, log_sigmas = levels.log().double(), sigmas.clamp(min=1e-10).log()
    low = (torch.searchsorted(log_levels, log_sigmas, right=True) - 1).clamp(0, len(levels) - 2)
    fraction = (log_sigmas - log_levels[low]) / (log_levels[low + 1] - log_levels[low])
    return low + fraction.clamp(0, 1)
