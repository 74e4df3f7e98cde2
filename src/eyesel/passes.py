"""A pass: one run of a solver over the latents of a batch, told what to paint and perhaps what to start from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eyesel.conditioning import Encode
from eyesel.diffusion import (
    Denoiser,
    NoiseSource,
    Plan,
    Schedule,
    Step,
    StepDenoiser,
    Variation,
    guided,
    kept,
    shown,
    within,
)
from eyesel.diffusion.solvers import Denoise
from eyesel.errors import SettingError
from eyesel.models.ip_adapter import ImagePrompt
from eyesel.models.unet import UNetConfig
from eyesel.script import Inputs, Script, by_length, composition
from eyesel.settings import Settings


@dataclass(frozen=True, eq=False)
class Known:
    """The picture that a pass starts from, as latents; (1, ...) for all images of the batch alike, or (B, ...)."""

    latents: Tensor  # (B or 1, C, h, w)
    strength: float  # how much is made anew
    mask: Tensor | None = None  # (1, 1, h, w): 1 where it is repainted
    seen: Tensor | None = None  # (1, 1 + C, h, w): what an inpainting network is shown of it
    fill: str | None = None  # what the masked part starts from; None: the picture, or at strength 1 only noise

    def filled(self, noise: Tensor) -> Tensor:
        """The latents to start from, those under the mask as `fill` has it."""
        if self.mask is None or self.fill not in ("noise", "nothing"):
            return self.latents
        return torch.lerp(self.latents, noise if self.fill == "noise" else torch.zeros_like(noise), self.mask)

    def under(self, noise: Tensor, plan: Plan, schedule: Schedule) -> Tensor:
        """The x of the first step, from `noise` (B, C, h, w)."""
        x = plan.resume(self.filled(noise), noise, schedule)
        if self.mask is None or self.fill is not None or self.strength < 1:
            return x
        return torch.lerp(x, plan.start(noise, schedule), self.mask if self.seen is None else 1.0)


@dataclass(frozen=True, eq=False)
class Call:
    """What the passes of one call share."""

    prompts: Sequence[str]  # one for each image
    seeds: Sequence[int]
    variation: Variation | None
    settings: Settings
    steps: int
    guidance: float
    plan: Plan
    encode: Encode
    network: Callable[..., Tensor]  # (x, t, context, pooled, sizes, image_0, ...)
    config: UNetConfig
    device: torch.device
    zero: bool  # no negative prompt is zeros
    image_prompts: Sequence[ImagePrompt] = ()
    aligned: bool = False  # the images follow the first one's style


class Pass:
    """All that can be wrong with a pass is found when it is made; `solve` then paints."""

    def __init__(
        self,
        call: Call,
        size: tuple[int, int],
        shape: tuple[int, int, int, int],
        steps: int,
        known: Known | None = None,
        noise: Tensor | None = None,
    ) -> None:
        """`size` is that of the picture in pixels, `shape` that of the latents; `noise` replaces the first draw."""
        settings = call.settings
        self.plan, self.known = call.plan, known
        self.schedule = call.plan.schedule(steps, 1.0 if known is None else known.strength)
        self.source = NoiseSource(call.seeds, call.device, settings.rng, call.variation)
        self.noise = self.source.draw(shape)
        if noise is not None:
            if tuple(noise.shape) != shape:
                raise SettingError(f"The noise has the shape {tuple(noise.shape)}; these pictures need {shape}.")
            self.noise = noise.to(call.device, torch.float32)
        self.denoise = self._denoiser(call, size)

    def _denoiser(self, call: Call, size: tuple[int, int]) -> Denoise:
        settings, steps, known = call.settings, len(self.schedule), self.known
        script = Script(call.prompts, settings.negative or "", steps, call.encode, call.aligned)
        told = Inputs(call.config, size, call.zero, call.image_prompts).of(script, steps)
        together, network = composition(script, call.device), by_length(call.network)
        if call.aligned and together is not None:
            raise SettingError("Pictures of prompts with AND cannot be aligned: say each in one prompt.")
        if known is not None and known.seen is not None:
            network = shown(network)
            for rows in (rows for both in told.values() for rows in both):
                rows["seen"] = known.seen.expand(len(rows["context"]), -1, -1, -1)

        def guided_by(guidance: float, rescale: float = 0.0) -> Denoise:
            networks = {said: guided(network, *rows, guidance, rescale, together) for said, rows in told.items()}
            denoisers = [Denoiser(networks[script.at(step)], self.schedule) for step in range(1, steps + 1)]
            return StepDenoiser(denoisers, self.schedule)

        inside = guided_by(call.guidance, settings.guidance_rescale)
        denoise = within(settings.guidance_interval, inside, guided_by(1))
        if known is not None and known.mask is not None and known.seen is None:
            denoise = kept(denoise, known.latents, known.mask)
        return denoise

    def solve(self) -> Iterator[Step]:
        """The steps; the x of the last one is the latents to decode."""
        if self.known is None:
            x = self.plan.start(self.noise, self.schedule)
        else:
            x = self.known.under(self.noise, self.plan, self.schedule)
        return self.plan.solve(self.denoise, x, self.schedule, self.source)
