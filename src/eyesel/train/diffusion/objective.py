"""The loss of denoising (Ho et al. 2020), for what the base predicts, weighted as is asked for.

Everything random is given: noise, timesteps. With alpha_bar the share of the picture in a timestep, x_t =
sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) e, the network gives e (epsilon), v = sqrt(alpha_bar) e -
sqrt(1 - alpha_bar) x_0 (Salimans & Ho 2022), or x_0 (sample).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eyesel.diffusion import NoiseSchedule


@dataclass(frozen=True)
class Weighting:
    """`snr_gamma` is that of Min-SNR-gamma (Hang et al. 2023), None: every timestep weighs the same."""

    snr_gamma: float | None = None

    def of(self, snr: Tensor, prediction_type: str) -> Tensor:
        """The weight of each row of signal-to-noise ratios (B,). With v the loss is that of x_0 over 1 + SNR."""
        if self.snr_gamma is None:
            return torch.ones_like(snr)
        capped = snr.clamp(max=self.snr_gamma)
        if prediction_type == "epsilon":
            return (self.snr_gamma / snr).clamp(max=1)  # 1 where there is no signal at all
        return capped / (snr + 1) if prediction_type == "v_prediction" else capped


class Objective(nn.Module):
    """`forward(prediction, ...)`: the mean of the weighted squared errors of a batch."""

    alphas_cumprod: Tensor

    def __init__(self, schedule: NoiseSchedule, weighting: Weighting) -> None:
        super().__init__()
        self.prediction_type, self.weighting = schedule.prediction_type, weighting
        self.register_buffer("alphas_cumprod", schedule.alphas_cumprod.clone(), persistent=False)

    def noisy(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of latents (B, C, h, w) at timesteps t (B,)."""
        signal, rest = self._shares(t)
        return signal * latents + rest * noise

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network is to say."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        signal, rest = self._shares(t)
        return signal * noise - rest * latents

    def forward(self, prediction: Tensor, latents: Tensor, noise: Tensor, t: Tensor, weight: Tensor) -> Tensor:
        """`weight` (B,) is that of each sample: 1, or the prior's."""
        errors = (prediction.float() - self.target(latents, noise, t).float()).square().mean((1, 2, 3))  # (B,)
        alpha_bar = self.alphas_cumprod[t]
        return (errors * self.weighting.of(alpha_bar / (1 - alpha_bar), self.prediction_type) * weight).mean()

    def _shares(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
