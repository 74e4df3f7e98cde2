"""One style transfer of a painter: from its settings to paintings, step by step."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from eyesel.easel import Easel
from eyesel.errors import SettingError
from eyesel.nn.stage import Stage
from eyesel.picture import Painting, Picture
from eyesel.run import check_task
from eyesel.stylize import Inversions, Parts, StyleSettings, Transfer, described, detailed, pictures_of
from eyesel.stylize.inversions import fingerprint


class Restyling:
    """All that can be wrong with a call is found when it is made; `paintings` then works."""

    def __init__(
        self,
        easel: Easel,
        content: Any,
        style: Any,
        weights: Sequence[float] | None,
        mask: Any,
        prompt: str | None,
        typed: str | None,
        settings: StyleSettings,
        inversions: Inversions | str | Path | None,
    ) -> None:
        """`prompt` is what the result shows, `typed` what it was before its tags were seen to; for the rest see
        `StableDiffusion.styling`.
        """
        if easel.inpaints:
            raise SettingError("This is an inpainting checkpoint, which cannot be inverted: take an ordinary one.")
        canvas, styles, shares = pictures_of(content, style, weights, mask, settings.longest)
        check_task(easel, canvas)
        easel.picture_size(canvas.view.size)
        stage = Stage(easel.unet, easel.device)
        parts = Parts(
            easel.unet.config,
            lambda tap: easel.network(stage, tap),
            easel.prompt_encoder.encode,
            easel.encode,
            easel.scheduler,
            easel.zero_negative,
            fingerprint([easel.unet, easel.autoencoder, *easel.text_encoders]),
            easel.device,
            easel.image_prompts,
        )
        kept = inversions if isinstance(inversions, Inversions) else Inversions(inversions)
        guidance = easel.recommended.guidance_scale if settings.guidance is None else settings.guidance
        self.easel, self.settings, self.canvas = easel, settings, canvas
        self.transfer = Transfer(parts, settings, canvas, styles, shares, prompt, guidance, kept)
        self.said = described(content, style, shares, typed)

    def paintings(self) -> Iterator[Painting]:
        """One a step: of the inversions that are not known yet, then of the result."""
        transfer = self.transfer
        if self.settings.dial == 0:
            latents = self.easel.encode(transfer.pictures[:1])
            yield Painting(0, 1, latents, latents, self.pictures)
            return
        ahead = transfer.levels if transfer.missing else 0
        for step in transfer.inverting():
            yield Painting(step.index, ahead + transfer.steps, step.x, step.denoised, self.pictures)
        for step in transfer.solve():
            yield Painting(ahead + step.index, ahead + transfer.steps, step.x, step.denoised, self.pictures)

    def pictures(self, latents: Tensor) -> list[Picture]:
        """The picture of latents (the first row), with the record of how it was made."""
        easel, settings, canvas = self.easel, self.settings, self.canvas
        image = canvas.whole
        if settings.dial:
            made = easel.decode(self.transfer.matched(latents[:1]))[0]
            if settings.share < 1:
                back = easel.decode(easel.encode([canvas.view]))[0]
                made = detailed(made, canvas.view, back, 1 - settings.share)
            image = canvas.pasted(self.transfer.recolored(made))
        record = {
            **self.said,
            "style_strength": settings.dial,
            "style_gamma": settings.own_gamma,
            "style_temperature": settings.own_temperature,
            "style_layers": tuple(self.transfer.layers),
            "style_color": settings.colors,
            "style_match": settings.own_match,
            "faithful": settings.faithful,
            "steps": settings.steps,
            "guidance": self.transfer.guidance,
            "solver": "ddim",
            "width": image.width,
            "height": image.height,
            "model": easel.name,
            **easel.remarks,
        }
        return [Picture(image, 0, record)]
