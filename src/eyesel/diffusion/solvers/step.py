"""What all solvers share: the step that they hand out, and the split between noise kept and noise drawn."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

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
