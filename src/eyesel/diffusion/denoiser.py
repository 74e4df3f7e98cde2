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


def to_denoised(prediction_type: str, prediction: Tensor, x: Tensor, sigma: float) -> Tensor:
    """D of what the network predicts."""
    if prediction_type == "epsilon":
        return x - sigma * prediction
    if prediction_type == "v_prediction":
        return x / (sigma**2 + 1) - sigma / (sigma**2 + 1) ** 0.5 * prediction
    return prediction


def to_prediction(prediction_type: str, denoised: Tensor, x: Tensor, sigma: float) -> Tensor:
    """The inverse: what a network predicts that expects `denoised`."""
    if prediction_type == "epsilon":
        return (x - denoised) / sigma
    if prediction_type == "v_prediction":
        return (x / (sigma**2 + 1) - denoised) * ((sigma**2 + 1) ** 0.5 / sigma)
    return denoised


@dataclass(frozen=True)
class Denoiser:
    """`network(x, t)` as D(x, sigma); t is (B,) float32. x keeps its dtype, whatever the network computes in."""

    network: Network
    schedule: Schedule

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        t = x.new_full((len(x),), self.schedule.timestep(sigma))
        prediction = self.network((sigma**2 + 1) ** -0.5 * x, t).to(x.dtype)
        return to_denoised(self.schedule.prediction_type, prediction, x, sigma)


@dataclass(frozen=True)
class StepDenoiser:
    """Another D for every step, chosen by the noise level: `denoisers[i]` from the start of step i on."""

    denoisers: Sequence[Denoiser]
    schedule: Schedule

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self.denoisers[self.schedule.step(sigma)](x, sigma)
