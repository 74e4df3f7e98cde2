"""One call of a painter: from its settings to paintings, step by step."""

import operator
import secrets
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eyesel.canvas import SIZE_STEP, Canvas, prepare
from eyesel.conditioning import emphasis_mode
from eyesel.diffusion import Schedule, Variation, from_scheduler_config
from eyesel.easel import Easel
from eyesel.errors import SettingError
from eyesel.images import FILTERS, filled, fitted, from_pil
from eyesel.nn.attention import Tap
from eyesel.nn.stage import Stage
from eyesel.passes import Call, Known, Pass
from eyesel.picture import Painting, Picture
from eyesel.settings import Settings

# Of `torch.nn.functional.interpolate`, as AUTOMATIC1111 has them
LATENT_MODES: dict[str, Any] = {
    "latent": {"mode": "bilinear"},
    "latent_antialiased": {"mode": "bilinear", "antialias": True},
    "latent_bicubic": {"mode": "bicubic"},
    "latent_bicubic_antialiased": {"mode": "bicubic", "antialias": True},
    "latent_nearest": {"mode": "nearest"},
    "latent_nearest_exact": {"mode": "nearest-exact"},
}
STRENGTH = 0.75  # of image to image, unless the caller says otherwise; a masked part is made wholly anew


class Run:
    """All that can be wrong with a call is found when it is made; `paintings` then paints."""

    def __init__(
        self,
        easel: Easel,
        prompts: list[str],
        typed: list[str],
        settings: Settings,
        image: Any = None,
        mask: Any = None,
        seed: int | Sequence[int] | None = None,
        noise: Tensor | None = None,
        tap: Tap | None = None,
        aligned: bool = False,
    ) -> None:
        """`prompts` are one for each image, `typed` what they were before their tags were seen to; `aligned` pictures
        follow the style of the first.
        """
        easel = easel.seamless() if settings.seamless else easel
        self.easel, self.settings, self.typed = easel, settings, typed
        self.canvas = None if image is None else prepare(image, mask, settings, easel.picture_size())
        check_task(easel, self.canvas)
        self.stage = Stage(easel.unet, easel.device)
        self.size = easel.picture_size(settings.size if self.canvas is None else self.canvas.view.size)
        seeds, variation = seeds_of(seed, settings, len(prompts))
        self.call = Call(
            prompts,
            seeds,
            variation,
            settings,
            easel.recommended.num_inference_steps if settings.steps is None else settings.steps,
            easel.recommended.guidance_scale if settings.guidance is None else settings.guidance,
            from_scheduler_config(easel.scheduler, settings.solver, settings.eta, settings.schedule, xl=easel.is_xl),
            partial(easel.prompt_encoder.encode, clip_skip=settings.clip_skip, emphasis=settings.emphasis),
            easel.network(self.stage, tap),
            easel.unet.config,
            easel.device,
            zero=easel.zero_negative and settings.negative is None,
            image_prompts=easel.image_prompts,
            aligned=aligned,
        )
        self.known = None if self.canvas is None else known_of(easel, self.canvas, settings)
        shape = easel.latent_shape(len(prompts), self.size)
        self.first = Pass(self.call, self.size, shape, self.call.steps, self.known, noise)
        self.larger = self._larger_size()
        self.second_schedule = None if self.larger is None else self._second_schedule()

    def _larger_size(self) -> tuple[int, int] | None:
        """The size of the second pass, if there is one."""
        factor = self.settings.hires
        if factor is None:
            return None
        width, height = (round(side * factor / SIZE_STEP) * SIZE_STEP for side in self.size)
        if (width, height) == self.size:
            raise SettingError(f"hires is {factor:g}, which makes {width}x{height} pixels no larger: take more.")
        return self.easel.picture_size((width, height))

    def _second_schedule(self) -> Schedule:
        return self.call.plan.schedule(self.settings.hires_steps or self.call.steps, self.settings.hires_strength)

    def paintings(self) -> Iterator[Painting]:
        """One a step, of the second pass, too."""
        steps = len(self.first.schedule)
        total = steps + (0 if self.second_schedule is None else len(self.second_schedule))
        for step in self.first.solve():
            if step.index + 1 == total:
                self.stage.leave()
            yield Painting(step.index, total, step.x, step.denoised, self.pictures)
        if self.larger is not None and self.second_schedule is not None:
            start = Known(self._enlarged(step.x, self.larger), self.settings.hires_strength)
            shape = self.easel.latent_shape(len(self.typed), self.larger)
            second = Pass(self.call, self.larger, shape, self.second_schedule.planned, start)
            for step in second.solve():
                if steps + step.index + 1 == total:
                    self.stage.leave()
                yield Painting(steps + step.index, total, step.x, step.denoised, self.pictures)

    def _enlarged(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """Latents (B, C, h, w) of pictures of `size`."""
        upscaler = self.settings.hires_upscaler
        if upscaler in FILTERS:
            decoded = self.easel.decode(latents)
            return self.easel.encode([fitted(picture, size, resample=FILTERS[upscaler]) for picture in decoded])
        shape = self.easel.latent_shape(len(latents), size)[2:]
        return F.interpolate(latents, shape, **LATENT_MODES[upscaler])

    def pictures(self, latents: Tensor) -> list[Picture]:
        """The pictures of latents, with the record of how they were made."""
        images, record = self.easel.decode(latents), self.record
        if self.canvas is not None:
            images = [self.canvas.pasted(painted) for painted in images]
        pictures = []
        for i, image in enumerate(images):
            own = {"prompt": self.typed[i], **record}
            if self.call.aligned:
                own["aligned_with"] = {"prompt": self.typed[0], "seed": self.call.seeds[0]}
            if self.call.variation is not None:
                own["variation_seed"] = self.call.variation.seeds[i]
            pictures.append(Picture(image, self.call.seeds[i], own))
        return pictures

    @property
    def record(self) -> dict[str, Any]:
        """The settings that a picture keeps, with nothing left open."""
        canvas, call = self.canvas, self.call
        width, height = self.size if canvas is None or self.settings.only_masked else canvas.whole.size
        record = {
            **self.settings.record(image=canvas is not None, mask=canvas is not None and canvas.mask is not None),
            "steps": call.steps,
            "guidance": call.guidance,
            "solver": call.plan.solver,
            "schedule": call.plan.spread,
            "emphasis": emphasis_mode(self.settings.emphasis),
            "width": width,
            "height": height,
            "model": self.easel.name,
            **self.easel.remarks,
        }
        if self.known is not None:
            record["strength"] = self.known.strength
        del record["size"]
        return record


def check_task(easel: Easel, canvas: Canvas | None) -> None:
    """Refuse the checkpoints that were not made for what is asked."""
    if easel.inpaints and (canvas is None or canvas.mask is None):
        raise SettingError(
            f"This is an inpainting checkpoint, of {easel.unet.config.in_channels} input channels, which repaints "
            "pictures under a mask: give both, or take an ordinary checkpoint."
        )
    if easel.is_refiner and canvas is None:
        raise SettingError(
            "This is a Stable Diffusion XL refiner, which finishes pictures: give it one as `image` (--image) with "
            "a strength of about 0.25, or take the base checkpoint to paint from words alone."
        )


def known_of(easel: Easel, canvas: Canvas, settings: Settings) -> Known:
    """A canvas as latents."""
    view, shape = canvas.view, canvas.view_shape
    if shape is None:
        return Known(easel.encode([view]), STRENGTH if settings.strength is None else settings.strength)
    latents = easel.encode([filled(view, shape) if settings.fill == "fill" else view])
    hidden = torch.from_numpy(np.asarray(shape) >= 128).float()[None, None]  # (1, 1, H, W)
    mask = F.max_pool2d(hidden, easel.autoencoder.config.factor).to(easel.device)  # (1, 1, h, w): any white pixel
    seen = None
    if easel.inpaints:
        seen = torch.cat([mask, easel.encode_pixels(from_pil([view]) * (1 - hidden))], dim=1)
    return Known(latents, 1.0 if settings.strength is None else settings.strength, mask, seen, settings.fill)


def seeds_of(seed: int | Sequence[int] | None, settings: Settings, count: int) -> tuple[list[int], Variation | None]:
    """Of each image. Variations share the seed, as in AUTOMATIC1111, and differ in what its noise is mixed with."""
    varied = bool(settings.variation_strength)
    if isinstance(seed, list | tuple):
        if varied or len(seed) != count:
            raise SettingError(f"seed is a list of {len(seed)}; it needs {count}, and no variation_strength.")
        return [whole_seed(each, 1) for each in seed], None
    first = secrets.randbelow(2**32) if seed is None else whole_seed(seed, 1 if varied else count)
    if not varied:
        return [first + i for i in range(count)], None
    other = settings.variation_seed
    other = secrets.randbelow(2**32) if other is None else whole_seed(other, count)
    return [first] * count, Variation([other + i for i in range(count)], settings.variation_strength)


def whole_seed(seed: Any, count: int) -> int:
    """`seed` as an int (NumPy's count too), if `count` seeds from there on exist."""
    try:
        first = operator.index(seed)
    except TypeError:
        raise SettingError(f"seed is {seed!r}; it must be a whole number.") from None
    if not 0 <= first <= 2**64 - count:
        raise SettingError(f"seed is {first}; it must be a whole number from 0 to {2**64 - count}.")
    return first
