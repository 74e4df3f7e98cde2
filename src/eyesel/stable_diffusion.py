"""The easel: Stable Diffusion 1.x, 2.x and XL, from a prompt to pictures."""

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image
from torch import Tensor

from eyesel.diffusion import Denoiser, NoiseSource, from_scheduler_config, guided
from eyesel.errors import CheckpointError, SettingError
from eyesel.images import save_image, to_pil
from eyesel.models.autoencoder import Autoencoder
from eyesel.models.clip_text import ClipText, TextFeatures
from eyesel.models.unet import SizeConditioning, UNet
from eyesel.nn.attention import Tap
from eyesel.text.tokenizer import ClipTokenizer
from eyesel.weights.checkpoint import open_stable_diffusion
from eyesel.weights.hub import resolve
from eyesel.weights.painter import Options
from eyesel.weights.placement import choose_device

SIZE_STEP = 8  # pixels: width and height are multiples of it
MAX_SIDE = 8192  # pixels


@dataclass(frozen=True, eq=False)
class Picture:
    """A painted picture and everything that it takes to paint it again."""

    image: Image.Image
    seed: int
    settings: dict[str, Any]

    @property
    def parameters(self) -> str:
        """The settings as the text that AUTOMATIC1111 writes into its pictures, and other programs read."""
        s = self.settings
        lines = [s["prompt"]]
        if s["negative"]:
            lines.append(f"Negative prompt: {s['negative']}")
        lines.append(
            f"Steps: {s['steps']}, Sampler: {s['solver']}, CFG scale: {s['guidance']:g}, Seed: {self.seed}, "
            f"Size: {s['width']}x{s['height']}, Model: {s['model']}"
        )
        return "\n".join(lines)

    def enlarged(self, factor: int) -> Image.Image:
        """Each pixel as a square of `factor` pixels: how small pictures are best looked at."""
        if factor < 1:
            raise SettingError(f"A picture cannot be enlarged {factor} times; take 1 or more.")
        return self.image.resize((self.image.width * factor, self.image.height * factor), Image.Resampling.NEAREST)

    def save(self, path: str | Path, enlarge: int = 1) -> None:
        """Write a PNG, JPEG or WebP with prompt, seed and settings in its metadata."""
        metadata = {"parameters": self.parameters, "eyesel": json.dumps({**self.settings, "seed": self.seed})}
        save_image(self.enlarged(enlarge), path, metadata)


@dataclass(frozen=True, eq=False)
class Painting:
    """Pictures in the making, after step `index` + 1 of `total`."""

    index: int
    total: int
    latents: Tensor  # (B, channels, h, w), scaled; after the last step, those of the finished pictures
    denoised: Tensor  # what they are expected to become
    _finish: Callable[[Tensor], list[Picture]]

    @property
    def finished(self) -> bool:
        return self.index == self.total - 1

    def preview(self) -> list[Image.Image]:
        """The pictures as the network expects them to become."""
        return [picture.image for picture in self._finish(self.denoised)]

    def pictures(self) -> list[Picture]:
        """The finished pictures."""
        if not self.finished:
            raise SettingError(f"Step {self.index + 1} of {self.total} is not the last; use preview() until then.")
        return self._finish(self.latents)


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
    ) -> None:
        self.unet, self.autoencoder = unet, autoencoder
        self.text_encoders, self.tokenizers = text_encoders, tokenizers
        self.scheduler, self.zero_negative, self.name = scheduler, zero_negative, name
        self.device = unet.conv_in.weight.device
        self._check_parts()

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
        )

    @overload
    def generate(self, prompt: str, *, n: None = None, **settings: Any) -> Picture: ...
    @overload
    def generate(self, prompt: list[str], *, n: int | None = None, **settings: Any) -> list[Picture]: ...
    @overload
    def generate(self, prompt: str, *, n: int, **settings: Any) -> list[Picture]: ...
    def generate(self, prompt: str | list[str], *, n: int | None = None, **settings: Any) -> Picture | list[Picture]:
        """Paint. One prompt gives a `Picture`; a list of prompts, or `n` pictures of each, gives a list.

        Takes the settings of `steps`.
        """
        for painting in self.steps(prompt, n=1 if n is None else n, **settings):
            last = painting
        pictures = last.pictures()
        return pictures[0] if n is None and isinstance(prompt, str) else pictures

    def steps(
        self,
        prompt: str | list[str],
        *,
        negative: str | None = None,
        steps: int = 25,
        guidance: float = 7.5,
        solver: str | None = None,
        seed: int | None = None,
        size: tuple[int, int] | None = None,
        n: int = 1,
        noise: Tensor | None = None,
        tap: Tap | None = None,
    ) -> Iterator[Painting]:
        """The generator under `generate`: one `Painting` a step, so that the caller can show, stop or measure.

        `size` is (width, height) in pixels, by default what the checkpoint was trained at. Picture i starts from seed
        + i; without a seed one is drawn. `solver` None is the checkpoint's own. `noise` (B, channels, h, w), of
        variance 1, replaces the seeds' first draw.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts or any(not p.strip() for p in prompts):
            raise SettingError("The prompt is empty: say what to paint (guidance 0 paints without regard to it).")
        if n < 1:
            raise SettingError(f"n is {n}; at least one picture has to be painted.")
        self._check_task()
        width, height = self._size(size)
        plan = from_scheduler_config(self.scheduler, solver)
        schedule = plan.schedule(steps)
        seed = secrets.randbelow(2**32) if seed is None else seed

        prompts = [p for p in prompts for _ in range(n)]
        seeds = [seed + i for i in range(len(prompts))]
        source = NoiseSource(seeds, self.device)
        network = guided(
            self._network(tap),
            self._conditioning(prompts, (width, height)),
            self._conditioning([negative or ""] * len(prompts), (width, height), zero=negative is None),
            guidance,
        )
        factor = self.autoencoder.config.factor
        shape = (len(prompts), self.autoencoder.config.latent_channels, height // factor, width // factor)
        first = source.draw(shape)
        if noise is not None:
            if tuple(noise.shape) != shape:
                raise SettingError(f"The noise has the shape {tuple(noise.shape)}; these pictures need {shape}.")
            first = noise.to(self.device, torch.float32)

        settings = {
            "negative": negative or "",
            "steps": steps,
            "guidance": guidance,
            "solver": plan.solver,
            "width": width,
            "height": height,
            "model": self.name,
        }

        def finish(latents: Tensor) -> list[Picture]:
            return [
                Picture(image, seed, {"prompt": prompt, **settings})
                for image, seed, prompt in zip(self.decode(latents), seeds, prompts, strict=True)
            ]

        def run() -> Iterator[Painting]:
            x = plan.start(first, schedule)
            for step in plan.solve(Denoiser(network, schedule), x, schedule, source):
                yield Painting(step.index, steps, step.x, step.denoised, finish)

        return run()

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of scaled latents (B, channels, h, w)."""
        with torch.inference_mode():
            return to_pil(self.autoencoder.decode(latents.to(self._autoencoder_dtype)).float())

    @property
    def _autoencoder_dtype(self) -> torch.dtype:
        return self.autoencoder.decoder.conv_in.weight.dtype

    def _check_task(self) -> None:
        """Refuse the checkpoints that were not made to paint from words alone."""
        unet, latents = self.unet.config, self.autoencoder.config.latent_channels
        if unet.in_channels != latents:
            raise SettingError(
                f"This is an inpainting checkpoint, of {unet.in_channels} input channels, which repaints pictures: "
                "take an ordinary checkpoint to paint from words alone."
            )
        pooled = self.text_encoders[-1].config.projection_dim or 0
        if unet.added_dim and unet.size_dim and unet.added_dim != pooled + 6 * unet.size_dim:
            raise SettingError(
                "This is a Stable Diffusion XL refiner, which finishes pictures: take the base checkpoint to "
                "paint from words alone."
            )

    def _size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        if size is None:
            sample = self.unet.config.sample_size * self.autoencoder.config.factor
            return sample, sample
        for name, side in zip(("width", "height"), size, strict=True):
            if side < SIZE_STEP or side > MAX_SIDE or side % SIZE_STEP:
                below = max(SIZE_STEP, min(side, MAX_SIDE) // SIZE_STEP * SIZE_STEP)
                raise SettingError(
                    f"The {name} is {side} pixels; it must be a multiple of {SIZE_STEP} up to {MAX_SIDE}, "
                    f"such as {below}."
                )
        return size

    def _network(self, tap: Tap | None) -> Callable[..., Tensor]:
        dtype = self.unet.conv_in.weight.dtype

        def network(
            x: Tensor, t: Tensor, context: Tensor, pooled: Tensor | None = None, sizes: Tensor | None = None
        ) -> Tensor:
            added = None if pooled is None or sizes is None else SizeConditioning(pooled, sizes)
            with torch.inference_mode():
                return self.unet(x.to(dtype), t, context, added, tap).float()

        return network

    def _conditioning(self, prompts: list[str], size: tuple[int, int], zero: bool = False) -> dict[str, Tensor]:
        """What the UNet is told: `context`, and for SDXL `pooled` and `sizes`; each distinct prompt is encoded once."""
        distinct = list(dict.fromkeys(prompts))
        rows = torch.tensor([distinct.index(p) for p in prompts], device=self.device)
        features = self._encode(distinct)
        dtype = self.unet.conv_in.weight.dtype
        if self.unet.config.added_dim is None:
            return {"context": features[0].last.to(dtype)[rows]}
        context = torch.cat([f.penultimate for f in features], dim=-1).to(dtype)[rows]
        pooled = features[-1].pooled.to(dtype)[rows]
        if zero and self.zero_negative:  # SDXL was trained with zeros, not with the empty prompt
            context, pooled = torch.zeros_like(context), torch.zeros_like(pooled)
        width, height = size
        sizes = torch.tensor([[height, width, 0, 0, height, width]] * len(prompts), device=self.device)
        return {"context": context, "pooled": pooled, "sizes": sizes}

    def _encode(self, prompts: list[str]) -> list[TextFeatures]:
        with torch.inference_mode():
            return [
                encoder(tokenizer.encode(prompts).to(self.device))
                for encoder, tokenizer in zip(self.text_encoders, self.tokenizers, strict=True)
            ]
