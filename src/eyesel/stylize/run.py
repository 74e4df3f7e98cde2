"""One style transfer: invert, mix the first latents, and come back down with the styles' keys and values."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from eyesel.canvas import Canvas
from eyesel.conditioning import Encode
from eyesel.diffusion import Denoiser, NoiseSource, Schedule, StepDenoiser, from_scheduler_config, kept
from eyesel.diffusion.guidance import Network
from eyesel.diffusion.inversion import finite, invert, invert_as_reference, reference_schedule
from eyesel.diffusion.solvers import Denoise, Step
from eyesel.errors import SettingError
from eyesel.models.ip_adapter import ImagePrompt
from eyesel.models.unet import UNetConfig
from eyesel.nn.attention import Tap
from eyesel.script import Inputs, Script
from eyesel.stylize.inversions import Inversions, key_of
from eyesel.stylize.layers import chosen_layers, sites
from eyesel.stylize.settings import StyleSettings
from eyesel.taps.style import KeepFeatures, StyleInjection, adain

Rows = Mapping[str, Tensor]


class Told(NamedTuple):
    """What the network is told in a step, one row each."""

    references: Rows
    unguided: Rows
    result: Rows


@dataclass(frozen=True, eq=False)
class Parts:
    """What a transfer uses of a painter."""

    config: UNetConfig
    network: Callable[[Tap | None], Callable[..., Tensor]]  # (x, t, context, pooled, sizes)
    encode_text: Encode
    encode: Callable[[Sequence[Image.Image]], Tensor]
    scheduler: Mapping[str, Any]
    zero: bool  # no prompt is zeros
    fingerprint: str
    device: torch.device
    image_prompts: Sequence[ImagePrompt] = ()  # which the result alone is told of


class Transfer:
    """All that can be wrong is found when it is made; `solve` then works. It lives for one call."""

    def __init__(
        self,
        parts: Parts,
        settings: StyleSettings,
        canvas: Canvas,
        styles: Sequence[Image.Image],
        weights: Sequence[float],
        prompt: str | None,
        guidance: float,
        inversions: Inversions,
    ) -> None:
        """`styles` have the size of `canvas.view`; `weights`, one for each, add up to 1."""
        self.parts, self.settings, self.canvas, self.inversions = parts, settings, canvas, inversions
        self.pictures, self.weights = [canvas.view, *styles], list(weights)
        self.layers = chosen_layers(parts.config, settings.layers)
        # DDIM without what it clips, to the very end: the one solver whose steps can be taken back
        config = {**parts.scheduler, "clip_sample": False, "set_alpha_to_one": True}
        self.plan = from_scheduler_config(config, "ddim", eta=0.0)
        self.schedule = finite(self.plan.schedule(settings.steps))
        if settings.faithful:
            self.schedule = reference_schedule(self.plan.training, self.schedule.levels, settings.steps)
        how = (parts.fingerprint, self.schedule.sigmas.tolist(), settings.looks, settings.faithful)
        self.keys = [key_of(picture, *how) for picture in self.pictures]
        self.missing = [i for i, key in enumerate(self.keys) if inversions.latents(key) is None]
        if settings.guidance is not None and not (prompt or parts.image_prompts):
            raise SettingError(
                f"guidance is {settings.guidance:g}, and there is no prompt to follow: say one (prompt)."
            )
        self.guidance = guidance if prompt or parts.image_prompts else 1.0
        self.told = self._told(prompt)

    @property
    def levels(self) -> int:
        """The steps of an inversion."""
        return len(self.schedule) + self.settings.faithful

    @property
    def steps(self) -> int:
        """The steps of the result."""
        return len(self.schedule) - (self.settings.faithful and len(self.schedule) > 1)

    def _told(self, prompt: str | None) -> list[Told]:
        """For each step, one row of what each hears."""
        steps = len(self.schedule)
        inputs = Inputs(self.parts.config, self.canvas.view.size, self.parts.zero, self.parts.image_prompts)
        script = Script([prompt or ""], "", steps, self.parts.encode_text)
        if len(script.images) > 1:
            raise SettingError("A prompt with AND cannot be followed in style transfer: say it in one.")
        told = inputs.of(script, steps)
        at = [told[script.at(step)] for step in range(1, steps + 1)]
        asked = prompt or self.parts.image_prompts
        return [Told(_unseen(nothing), nothing, something if asked else nothing) for something, nothing in at]

    # --- up: the inversions

    def inverting(self) -> Iterator[Step]:
        """The steps of the pictures that are not kept yet, all of them together."""
        if not self.missing:
            return
        network, silence = self.parts.network(None), self.told[-1].references
        denoise = Denoiser(lambda x, t: network(x, t, **_repeated(silence, len(x))), self.schedule)
        clean = self.parts.encode([self.pictures[i] for i in self.missing])
        if self.settings.faithful:
            run = invert_as_reference(denoise, clean, self.schedule)
        else:
            run = invert(denoise, clean, self.schedule, self.settings.looks)
        upwards = []
        for step in run:
            upwards.append(step.x.cpu())
            yield step
        for row, i in enumerate(self.missing):
            self.inversions.keep(self.keys[i], torch.stack([x[row] for x in reversed(upwards)]))

    def _trajectories(self) -> Tensor:
        """(pictures, levels, C, h, w) from the noisiest level down."""
        found = [self.inversions.latents(key) for key in self.keys]
        return torch.stack([latents for latents in found if latents is not None])

    # --- down: the result

    def solve(self) -> Iterator[Step]:
        """The steps of the result (1, C, h, w), once all pictures are inverted."""
        latents, steps = self._trajectories().to(self.parts.device), len(self.schedule)
        schedule, first = self.schedule, 0
        start = latents[:, 0]
        if self.settings.faithful and steps > 1:
            first, schedule = 1, schedule.last(steps - 1)
        if self.settings.faithful:  # the latents of one level are taken for those of another
            levels = schedule.levels[-1].item(), schedule.sigmas[0].item()
            start = start * ((levels[1] ** 2 + 1) / (levels[0] ** 2 + 1)) ** 0.5
        references = [latents[:, len(latents[0]) - steps + i] for i in range(first, steps)]
        told = self.told[first:]
        networks = self._injected(schedule, references, told)
        denoise: Denoise = StepDenoiser([Denoiser(network, schedule) for network in networks], schedule)
        x = self._first(start)
        if (mask := self._mask(start)) is not None:
            x = torch.lerp(start[:1], x, mask)
            denoise = kept(denoise, self.parts.encode(self.pictures[:1]), mask)
        yield from self.plan.solve(denoise, x, schedule, NoiseSource([0], self.parts.device))

    def _first(self, start: Tensor) -> Tensor:
        """The content's latents on their way to the statistics of the styles'."""
        share = self.settings.share * self.settings.colors * (1 - self.settings.own_match)
        return torch.lerp(start[:1], adain(start[:1], start[1:], self.weights), share) if share else start[:1]

    def _mask(self, latents: Tensor) -> Tensor | None:
        """(1, 1, h, w): 1 wherever something is restyled."""
        mask = self.canvas.view_shape
        if mask is None:
            return None
        white = torch.from_numpy(np.asarray(mask) > 0).float()[None, None]
        return F.adaptive_max_pool2d(white, latents.shape[2:]).to(self.parts.device)

    def _injected(self, schedule: Schedule, references: Sequence[Tensor], told: Sequence[Told]) -> list[Network]:
        """For each step the network of the result alone; the references go through it in the same batch, or did."""
        settings, share = self.settings, self.settings.share
        names = sites(self.parts.config, self.layers)
        weights = [1 - share, *(share * weight for weight in self.weights)]
        dial = names, settings.own_gamma, settings.own_temperature, weights
        if not settings.keep_features:
            tap = StyleInjection(*dial)
            each = zip(references, schedule.sigmas, told, strict=False)  # the last sigma is where the run ends
            return [self._network(tap, x, sigma, said) for x, sigma, said in each]
        features = self._features(schedule, references, told, names)
        taps = [StyleInjection(*dial, kept=[picture[i] for picture in features]) for i in range(len(told))]
        return [self._network(tap, None, s, said) for tap, s, said in zip(taps, schedule.sigmas, told, strict=False)]

    def _network(self, tap: Tap, references: Tensor | None, sigma: Tensor, told: Told) -> Network:
        """`network(x, t)` for x (1, C, h, w), whose rows are [content, style, ..., (unguided,) result]."""
        network, guidance = self.parts.network(tap), self.guidance
        something = told.result
        ahead = 0 if references is None else len(references)
        said = [_repeated(told.references, ahead), *([told.unguided] if guidance != 1 else []), something]
        rows = {name: torch.cat([part[name] for part in said]) for name in something if name != "length"}

        def guided(x: Tensor, t: Tensor) -> Tensor:
            batch = [x] if guidance == 1 else [x, x]
            if references is not None:
                batch = [references * (sigma.item() ** 2 + 1) ** -0.5, *batch]
            together = torch.cat(batch)
            results = network(together, t.expand(len(together)), **rows)[ahead:]
            return results if guidance == 1 else torch.lerp(results[:1], results[1:], guidance)

        return guided

    def _features(
        self, schedule: Schedule, references: Sequence[Tensor], told: Sequence[Told], names: Sequence[str]
    ) -> list[list[Any]]:
        """Of each picture, in each step: computed once, and kept in half precision."""
        parts = ["qkv" if self.settings.share < 1 else "q", *("kv" for _ in self.weights)]
        keys = [f"{key} {part} {self.layers}" for key, part in zip(self.keys, parts, strict=True)]
        missing = [i for i, key in enumerate(keys) if self.inversions.features(key) is None]
        found: list[list[Any]] = [[] for _ in missing]
        for x, sigma, said in zip(references, schedule.sigmas.tolist(), told, strict=False):
            if missing:
                tap = KeepFeatures(names, [parts[i] for i in missing])
                network = self.parts.network(tap)
                silence = _repeated(said.references, len(missing))
                Denoiser(lambda x, t: network(x, t, **silence), schedule)(x[missing], sigma)  # noqa: B023
                for own, picture in zip(found, tap.pictures, strict=True):
                    own.append(picture)
        for i, features in zip(missing, found, strict=True):
            self.inversions.keep_features(keys[i], features)
        return [self.inversions.features(key) or [] for key in keys]

    def matched(self, latents: Tensor) -> Tensor:
        """The finished latents (1, C, h, w) on their way to the statistics of the styles'."""
        share = self.settings.own_match * self.settings.share * self.settings.colors
        if not share:
            return latents
        return torch.lerp(latents, adain(latents, self.parts.encode(self.pictures[1:]), self.weights), share)

    def recolored(self, result: Image.Image) -> Image.Image:
        """The light of the result in the colours of the content, as far as the style's are not wanted."""
        return recolored(result, self.canvas.view, self.settings.colors)


def _unseen(rows: Rows) -> Rows:
    """The same without pictures: of tokens that are zero, keys and values are, and attention to them adds nothing."""
    return {name: torch.zeros_like(value) if name.startswith("image_") else value for name, value in rows.items()}


def _repeated(rows: Rows, count: int) -> dict[str, Tensor]:
    return {name: value.expand(count, *value.shape[1:]) for name, value in rows.items()}


def detailed(result: Image.Image, content: Image.Image, decoded: Image.Image, share: float) -> Image.Image:
    """`result` with this share of what the autoencoder loses of the content, which comes back as `decoded`.

    With the content's share of a result it begins at the content itself, and not at the less that its latents give.
    """
    pixels, whole, back = (np.asarray(picture, np.float32) for picture in (result, content, decoded))
    return Image.fromarray((pixels + share * (whole - back)).round().clip(0, 255).astype(np.uint8))


def recolored(result: Image.Image, content: Image.Image, share: float) -> Image.Image:
    """`result` with its own chroma in this share, and the content's in the rest (YCbCr, Gatys et al. 2017)."""
    if share == 1:
        return result
    light, *own = result.convert("YCbCr").split()
    _, *others = content.convert("YCbCr").split()
    chroma = [Image.blend(other, mine, share) for other, mine in zip(others, own, strict=True)]
    return Image.merge("YCbCr", (light, *chroma)).convert("RGB")
