"""The one contract between networks and solvers: `denoised = D(x, sigma)`.

Whatever the network predicts, a solver sees only the picture that it expects behind the noise (Karras et al. 2022,
section 5; the v-prediction of Salimans & Ho 2022, appendix D). With c = 1 / sqrt(sigma^2 + 1), the network always sees
c x, of variance about 1:

    epsilon        D = x - sigma F(c x, t)
    v_prediction   D = c^2 x - c sigma F(c x, t)
    sample         D = F(c x, t)
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from eyesel.diffusion.guidance import Network
from eyesel.diffusion.schedule import Schedule


@dataclass(frozen=True)
class Denoiser:
    """`network(x, t)` as D(x, sigma); t is (B,) float32. x keeps its dtype, whatever the network computes in."""

    network: Network
    schedule: Schedule

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        c = (sigma**2 + 1) ** -0.5
        t = x.new_full((len(x),), self.schedule.timestep(sigma))
        prediction = self.network(c * x, t).to(x.dtype)
        if self.schedule.prediction_type == "epsilon":
            return x - sigma * prediction
        if self.schedule.prediction_type == "v_prediction":
            return c**2 * x - c * sigma * prediction
        return prediction


@dataclass(frozen=True)
class StepDenoiser:
    """Another D for every step, chosen by the noise level: `denoisers[i]` from the start of step i on."""

    denoisers: Sequence[Denoiser]
    schedule: Schedule

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self.denoisers[self.schedule.step(sigma)](x, sigma)
