"""The easel: Stable Diffusion 1.x, 2.x and XL, from a prompt to pictures."""

import operator
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from eyesel.canvas import SIZE_STEP, Canvas, prepare
from eyesel.conditioning import PromptEncoder, emphasis_mode
from eyesel.diffusion import Schedule, Variation, from_scheduler_config
from eyesel.errors import CheckpointError, SettingError
from eyesel.images import filled, fitted, from_pil, to_pil
from eyesel.models.autoencoder import Autoencoder
from eyesel.models.clip_text import ClipText
from eyesel.models.unet import SizeConditioning, UNet
from eyesel.nn.attention import Tap
from eyesel.passes import Call, Known, Pass
from eyesel.picture import Painting, Picture
from eyesel.settings import Settings
from eyesel.stylize import Inversions, Parts, StyleSettings, Transfer, decoder_layers, described, pictures_of
from eyesel.stylize.inversions import fingerprint
from eyesel.text.prompt import loras
from eyesel.text.tokenizer import ClipTokenizer
from eyesel.weights.checkpoint import open_stable_diffusion
from eyesel.weights.diffusers_folder import Recommended, recommended
from eyesel.weights.hub import resolve
from eyesel.weights.painter import Options
from eyesel.weights.placement import choose_device

MAX_SIDE = 8192  # pixels
AS_USUAL = Recommended()


class StableDiffusion:
    """Made by `StableDiffusion.load("tiny")`. Calls share only the weights, so threads can share an object."""

    def __init__(
        self,
        unet: UNet,
        autoencoder: Autoencoder,
        text_encoders: list[ClipText],
        tokenizers: list[ClipTokenizer],
        scheduler: dict[str, Any],
        zero_negative: bool = False,
        name: str = "",
        recommended: Recommended = AS_USUAL,
    ) -> None:
        self.unet, self.autoencoder = unet, autoencoder
        self.text_encoders, self.tokenizers = text_encoders, tokenizers
        self.scheduler, self.zero_negative, self.name = scheduler, zero_negative, name
        self.recommended = recommended
        self.device = unet.conv_in.weight.device
        self._check_parts()
        self.prompt_encoder = PromptEncoder(text_encoders, tokenizers, xl=self.is_xl)

    def _check_parts(self) -> None:
        """Parts of different checkpoints can be put into one folder; they need not fit each other."""
        unet, latents = self.unet.config, self.autoencoder.config.latent_channels
        text = sum(encoder.config.dim for encoder in self.text_encoders)
        inpainting = 2 * latents + 1  # latents, mask, latents of the masked picture
        if unet.out_channels != latents or unet.in_channels not in (latents, inpainting):
            raise CheckpointError(
                f"The UNet maps {unet.in_channels} channels to {unet.out_channels} and the autoencoder has {latents}: "
                "this checkpoint is not for text to image, or its parts do not belong together."
            )
        if text != unet.context_dim:
            raise CheckpointError(
                f"The text encoders give {text} numbers a token and the UNet reads {unet.context_dim}: "
                "these parts do not belong together."
            )
        for encoder, tokenizer in zip(self.text_encoders, self.tokenizers, strict=True):
            if len(tokenizer) > encoder.config.vocab_size or tokenizer.max_length > encoder.config.max_length:
                raise CheckpointError(
                    f"The tokenizer has {len(tokenizer)} words and prompts of {tokenizer.max_length} tokens, the text "
                    f"encoder {encoder.config.vocab_size} and {encoder.config.max_length}: they do not belong together."
                )

    @classmethod
    def load(
        cls,
        name: str | Path = "tiny",
        *,
        device: str = "auto",
        precision: str = "auto",
        variant: str | None = None,
        vae: str | Path | None = None,
        ema: bool = False,
        prediction_type: str | None = None,
        zero_terminal_snr: bool | None = None,
        offline: bool = False,
    ) -> "StableDiffusion":
        """Open `tiny` (bundled), a hub name (`owner/name[@revision]`), a diffusers folder, or a single .safetensors or
        .ckpt file of SD 1.x, 2.x or XL.

        `variant` picks weight files of a folder, such as `*.fp16.safetensors`; `ema` takes the averaged weights of a
        single file. `vae` is the file or folder of another autoencoder. `prediction_type` ("epsilon", "v_prediction")
        and `zero_terminal_snr` overrule what the checkpoint says of its training. Raises `CheckpointError` for other
        families.
        """
        path = resolve(name, kind="painter", variant=variant, offline=offline)
        options = Options(
            variant=variant,
            vae=None if vae is None else resolve(vae, offline=offline),
            ema=ema,
            prediction_type=prediction_type,
            zero_terminal_snr=zero_terminal_snr,
        )
        parts = open_stable_diffusion(path, choose_device(device), precision, options)
        return cls(
            parts.unet,
            parts.autoencoder,
            parts.text_encoders,
            parts.tokenizers,
            parts.scheduler,
            zero_negative=bool(parts.index.get("force_zeros_for_empty_prompt")),
            name=str(name),
            recommended=recommended(path),
        )

    @overload
    def generate(self, prompt: str, *, n: None = None, **settings: Any) -> Picture: ...
    @overload
    def generate(self, prompt: list[str], *, n: int | None = None, **settings: Any) -> list[Picture]: ...
    @overload
    def generate(self, prompt: str, *, n: int, **settings: Any) -> list[Picture]: ...
    def generate(self, prompt: str | list[str], *, n: int | None = None, **settings: Any) -> Picture | list[Picture]:
        """Paint. One prompt gives a `Picture`; a list of prompts, or `n` pictures of each, gives a list.

        Takes what `steps` takes: an `image` to start from, a `seed`, and all `Settings`.
        """
        for painting in self.steps(prompt, n=1 if n is None else n, **settings):
            last = painting
        pictures = last.pictures()
        return pictures[0] if n is None and isinstance(prompt, str) else pictures

    def inpaint(self, image: Any, mask: Any, prompt: str, **settings: Any) -> Picture:
        """Repaint where the mask is white; everything else stays, bit for bit.

        `image` and `mask` are what `open_image` takes, of one size; "alpha" is the mask that is white where the picture
        is transparent. With `expand` the canvas grows, and the mask may be None.
        """
        if mask is None and settings.get("expand") is None:
            raise SettingError("There is nothing to repaint: give a mask, or expand the canvas.")
        return self.generate(prompt, image=image, mask=mask, **settings)

    def steps(
        self,
        prompt: str | list[str],
        *,
        image: Any = None,
        mask: Any = None,
        seed: int | None = None,
        n: int = 1,
        noise: Tensor | None = None,
        tap: Tap | None = None,
        **settings: Any,
    ) -> Iterator[Painting]:
        """The generator under `generate`: one `Painting` a step, so that the caller can show, stop or measure.

        Prompts are of any length and follow AUTOMATIC1111's conventions: `(word:1.2)` and `[word]` weigh words, `BREAK`
        starts a new chunk, `[fox:owl:0.4]` and `[fox|owl]` change over the steps that are made, `a fox AND an owl :1.2`
        combines prompts (not in the negative one); `\\(` is a plain bracket.

        `image` is a picture to start from and `mask` what of it is repainted (see `inpaint`). Picture i starts from
        seed + i, or, with a variation, from `seed` and variation_seed + i; without a seed one is drawn. `noise` (B,
        channels, h, w), of variance 1, replaces the seeds' first draw. All else are `Settings`.
        """
        chosen = Settings.of(settings)
        chosen.check_for(image is not None, mask is not None)
        prompts = self._checked_prompts(prompt, n, chosen.negative)
        canvas = None if image is None else prepare(image, mask, chosen, self.picture_size())
        self._check_task(canvas)
        size = self.picture_size(chosen.size if canvas is None else canvas.view.size)
        seeds, variation = self._seeds(seed, chosen, len(prompts))
        call = Call(
            prompts,
            seeds,
            variation,
            chosen,
            self.recommended.num_inference_steps if chosen.steps is None else chosen.steps,
            self.recommended.guidance_scale if chosen.guidance is None else chosen.guidance,
            from_scheduler_config(self.scheduler, chosen.solver, chosen.eta, chosen.schedule, xl=self.is_xl),
            partial(self.prompt_encoder.encode, clip_skip=chosen.clip_skip, emphasis=chosen.emphasis),
            self._network(tap),
            self.unet.config,
            self.device,
            zero=self.zero_negative and chosen.negative is None,
        )
        known = None if canvas is None else self._known(canvas, chosen)
        first = Pass(call, size, self._latent_shape(len(prompts), size), call.steps, known, noise)
        larger = self._larger(call, size)
        strength = None if known is None else known.strength
        return self._paint(call, first, larger, partial(self._finished, call, canvas, size, strength))

    def stylize(self, content: Any, style: Any, **settings: Any) -> Picture:
        """`content` in the style of `style`, or of several. Takes what `styling` takes."""
        for painting in self.styling(content, style, **settings):
            last = painting
        return last.pictures()[0]

    def styling(
        self,
        content: Any,
        style: Any,
        *,
        weights: Sequence[float] | None = None,
        mask: Any = None,
        prompt: str | None = None,
        inversions: Inversions | str | Path | None = None,
        **settings: Any,
    ) -> Iterator[Painting]:
        """The generator under `stylize`: the steps of the inversions that are not known yet, then those of the result.

        `content` and `style` are what `open_image` takes, and `style` may be a list of them, with as many `weights`
        (default: all alike). The result has the size of the content; the styles are cropped to its proportions. Only
        what is white in `mask` is restyled, the rest stays bit for bit. `inversions` keeps what was inverted: share one
        `Inversions` between calls, or name a folder. All else are `StyleSettings`. Nothing is drawn by chance.
        """
        if self.inpaints:
            raise SettingError("This is an inpainting checkpoint, which cannot be inverted: take an ordinary one.")
        chosen = StyleSettings.of(settings)
        canvas, styles, shares = pictures_of(content, style, weights, mask, chosen.longest)
        self._check_task(canvas)
        self.picture_size(canvas.view.size)
        if prompt is not None:
            self._checked_prompts(prompt, 1, None)
        parts = Parts(
            self.unet.config,
            self._network,
            self.prompt_encoder.encode,
            self.encode,
            self.scheduler,
            self.zero_negative,
            fingerprint([self.unet, self.autoencoder, *self.text_encoders]),
            self.device,
        )
        kept = inversions if isinstance(inversions, Inversions) else Inversions(inversions)
        guidance = self.recommended.guidance_scale if chosen.guidance is None else chosen.guidance
        transfer = Transfer(parts, chosen, canvas, styles, shares, prompt, guidance, kept)
        return self._transfer(transfer, partial(self._restyled, transfer, described(content, style, shares, prompt)))

    def _transfer(self, transfer: Transfer, finish: Callable[[Tensor], list[Picture]]) -> Iterator[Painting]:
        if transfer.settings.dial == 0:
            latents = self.encode(transfer.pictures[:1])
            yield Painting(0, 1, latents, latents, finish)
            return
        ahead = transfer.levels if transfer.missing else 0
        for step in transfer.inverting():
            yield Painting(step.index, ahead + transfer.steps, step.x, step.denoised, finish)
        for step in transfer.solve():
            yield Painting(ahead + step.index, ahead + transfer.steps, step.x, step.denoised, finish)

    def _restyled(self, transfer: Transfer, said: dict[str, Any], latents: Tensor) -> list[Picture]:
        """The picture of latents (the first row), with the record of how it was made."""
        settings, canvas = transfer.settings, transfer.canvas
        image = canvas.whole
        if settings.dial:
            image = canvas.pasted(transfer.recolored(self.decode(transfer.matched(latents[:1]))[0]))
        record = {
            **said,
            "style_strength": settings.dial,
            "style_gamma": settings.own_gamma,
            "style_temperature": settings.own_temperature,
            "style_layers": tuple(transfer.layers),
            "style_color": settings.colors,
            "style_match": settings.match,
            "faithful": settings.faithful,
            "steps": settings.steps,
            "guidance": transfer.guidance,
            "solver": "ddim",
            "width": image.width,
            "height": image.height,
            "model": self.name,
        }
        return [Picture(image, 0, record)]

    @property
    def style_layers(self) -> dict[int, str]:
        """The layers that `stylize` can inject a style into, by number and name."""
        return decoder_layers(self.unet.config)

    def _paint(
        self, call: Call, first: Pass, larger: tuple[int, int] | None, finish: Callable[[Tensor], list[Picture]]
    ) -> Iterator[Painting]:
        settings, steps = call.settings, len(first.schedule)
        total = steps if larger is None else steps + len(self._second_schedule(call))
        for step in first.solve():
            yield Painting(step.index, total, step.x, step.denoised, finish)
        if larger is not None:
            shape = self._latent_shape(len(call.prompts), larger)
            start = Known(self._enlarged(step.x, larger, settings.hires_upscaler), settings.hires_strength)
            for step in Pass(call, larger, shape, settings.hires_steps or call.steps, start).solve():
                yield Painting(steps + step.index, total, step.x, step.denoised, finish)

    def _checked_prompts(self, prompt: str | list[str], n: int, negative: str | None) -> list[str]:
        """One for each image."""
        prompts = list(prompt) if isinstance(prompt, list | tuple) else [prompt]
        for text in (*prompts, negative or ""):
            _, wanted = loras(text)  # which also refuses what is no text
            if wanted:
                raise SettingError(f"The prompt asks for the LoRA {wanted[0].name!r}, which cannot be applied yet.")
        if not prompts or any(not p.strip() for p in prompts):
            raise SettingError("The prompt is empty: say what to paint.")
        if not isinstance(n, int) or n < 1:
            raise SettingError(f"n is {n!r}; at least one picture has to be painted.")
        return [p for p in prompts for _ in range(n)]

    def _seeds(self, seed: int | None, settings: Settings, count: int) -> tuple[list[int], Variation | None]:
        """Of each image. Variations share the seed, as in AUTOMATIC1111, and differ in what its noise is mixed with."""
        first = secrets.randbelow(2**32) if seed is None else whole_seed(seed, count)
        if not settings.variation_strength:
            return [first + i for i in range(count)], None
        other = settings.variation_seed
        other = secrets.randbelow(2**32) if other is None else whole_seed(other, count)
        return [first] * count, Variation([other + i for i in range(count)], settings.variation_strength)

    def _known(self, canvas: Canvas, settings: Settings) -> Known:
        """The canvas as latents."""
        view, mask = canvas.view, canvas.view_mask
        if mask is None:
            return Known(self.encode([view]), 0.75 if settings.strength is None else settings.strength)
        latents = self.encode([filled(view, mask) if settings.fill == "fill" else view])
        hidden = (torch.from_numpy(np.asarray(mask) >= 128)).float()[None, None].to(self.device)  # (1, 1, H, W)
        small = F.max_pool2d(hidden, self.autoencoder.config.factor)  # (1, 1, h, w): whatever has a white pixel
        seen = None
        if self.inpaints:
            seen = torch.cat([small, self._encode(from_pil([view]).to(self.device) * (hidden < 0.5))], dim=1)
        return Known(latents, 1.0 if settings.strength is None else settings.strength, small, seen, settings.fill)

    def _larger(self, call: Call, size: tuple[int, int]) -> tuple[int, int] | None:
        """The size of the second pass, if there is one; it is checked before the first begins."""
        factor = call.settings.hires
        if factor is None:
            return None
        self._second_schedule(call)
        width, height = (round(side * factor / SIZE_STEP) * SIZE_STEP for side in size)
        return self.picture_size((width, height))

    def _second_schedule(self, call: Call) -> Schedule:
        return call.plan.schedule(call.settings.hires_steps or call.steps, call.settings.hires_strength)

    def _enlarged(self, latents: Tensor, size: tuple[int, int], upscaler: str) -> Tensor:
        """Latents (B, C, h, w) of pictures of `size`."""
        if upscaler == "lanczos":
            return self.encode([fitted(picture, size) for picture in self.decode(latents)])
        shape = self._latent_shape(len(latents), size)[2:]
        if upscaler == "latent_nearest":
            return F.interpolate(latents, shape, mode="nearest")
        return F.interpolate(latents, shape, mode="bicubic" if upscaler == "latent_bicubic" else "bilinear")

    def _finished(
        self, call: Call, canvas: Canvas | None, size: tuple[int, int], strength: float | None, latents: Tensor
    ) -> list[Picture]:
        """Pictures of latents, with the record of how they were made."""
        images = self.decode(latents)
        if canvas is not None:
            images = [canvas.pasted(painted) for painted in images]
            size = size if call.settings.only_masked else canvas.whole.size
        record = {
            **call.settings.record(image=canvas is not None, mask=canvas is not None and canvas.mask is not None),
            "steps": call.steps,
            "guidance": call.guidance,
            "solver": call.plan.solver,
            "schedule": call.plan.spread,
            "emphasis": emphasis_mode(call.settings.emphasis),
            "width": size[0],
            "height": size[1],
            "model": self.name,
        }
        del record["size"]
        pictures = []
        for i, image in enumerate(images):
            own = {"prompt": call.prompts[i], **record}
            if strength is not None:
                own["strength"] = strength
            if call.variation is not None:
                own["variation_seed"] = call.variation.seeds[i]
            pictures.append(Picture(image, call.seeds[i], own))
        return pictures

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Scaled latents (B, channels, h, w) of RGB pictures of one size, in float32: the mean of what they may be."""
        return self._encode(from_pil(images).to(self.device))

    def _encode(self, pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.autoencoder.encode(pixels.to(self._autoencoder_dtype)).float()

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of scaled latents (B, channels, h, w); `SettingError` where they came out as no numbers."""
        with torch.inference_mode():
            pixels = self.autoencoder.decode(latents.to(self._autoencoder_dtype)).float()
        if not pixels.isfinite().all():
            raise SettingError(
                "The picture came out as no numbers (NaN): try --precision float32 or a guidance nearer to 7.5."
            )
        return to_pil(pixels)

    @property
    def _autoencoder_dtype(self) -> torch.dtype:
        return self.autoencoder.decoder.conv_in.weight.dtype

    @property
    def is_xl(self) -> bool:
        return self.unet.config.added_dim is not None

    @property
    def inpaints(self) -> bool:
        """Whether the network was trained to repaint pictures, and is shown them."""
        return self.unet.config.in_channels > self.unet.config.out_channels

    def _check_task(self, canvas: Canvas | None) -> None:
        """Refuse the checkpoints that were not made for what is asked."""
        if self.inpaints and (canvas is None or canvas.mask is None):
            raise SettingError(
                f"This is an inpainting checkpoint, of {self.unet.config.in_channels} input channels, which repaints "
                "pictures under a mask: give both, or take an ordinary checkpoint."
            )
        pooled, unet = self.text_encoders[-1].config.projection_dim or 0, self.unet.config
        if canvas is None and unet.added_dim and unet.size_dim and unet.added_dim != pooled + 6 * unet.size_dim:
            raise SettingError(
                "This is a Stable Diffusion XL refiner, which finishes pictures: give it one as `image` (--image) with "
                "a strength of about 0.25, or take the base checkpoint to paint from words alone."
            )

    def _latent_shape(self, count: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
        config = self.autoencoder.config
        return count, config.latent_channels, size[1] // config.factor, size[0] // config.factor

    def picture_size(self, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """(width, height) of a picture: what is asked for if it can be painted, else what the model was trained at."""
        if size is None:
            sample = self.unet.config.sample_size * self.autoencoder.config.factor
            return sample, sample
        if not isinstance(size, tuple | list) or len(size) != 2 or not all(isinstance(side, int) for side in size):
            raise SettingError(f"size is {size!r}; it must be (width, height) in pixels, such as (512, 768).")
        for name, side in zip(("width", "height"), size, strict=True):
            if side < SIZE_STEP or side > MAX_SIDE or side % SIZE_STEP:
                below = max(SIZE_STEP, min(side, MAX_SIDE) // SIZE_STEP * SIZE_STEP)
                raise SettingError(
                    f"The {name} is {side} pixels; it must be a multiple of {SIZE_STEP} up to {MAX_SIDE}, "
                    f"such as {below}."
                )
        return size[0], size[1]

    def _network(self, tap: Tap | None) -> Callable[..., Tensor]:
        dtype = self.unet.conv_in.weight.dtype

        def network(
            x: Tensor, t: Tensor, context: Tensor, pooled: Tensor | None = None, sizes: Tensor | None = None
        ) -> Tensor:
            added = None if pooled is None or sizes is None else SizeConditioning(pooled, sizes)
            with torch.inference_mode():
                return self.unet(x.to(dtype), t, context.to(dtype), added, tap).float()

        return network


def whole_seed(seed: Any, count: int) -> int:
    """`seed` as an int (NumPy's count too), if `count` seeds from there on exist."""
    try:
        first = operator.index(seed)
    except TypeError:
        raise SettingError(f"seed is {seed!r}; it must be a whole number.") from None
    if not 0 <= first <= 2**64 - count:
        raise SettingError(f"seed is {first}; it must be a whole number from 0 to {2**64 - count}.")
    return first
