"""The easel: Stable Diffusion 1.x, 2.x and XL, from a prompt to pictures."""

import copy
import operator
import secrets
import warnings
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
from eyesel.models.image_blocks import Blocks
from eyesel.models.ip_adapter import ImagePrompt
from eyesel.models.unet import SizeConditioning, UNet
from eyesel.nn.aligned import with_shared_norms
from eyesel.nn.attention import Tap
from eyesel.nn.image_attention import Prompted
from eyesel.passes import Call, Known, Pass
from eyesel.picture import Painting, Picture
from eyesel.settings import Settings
from eyesel.taps.align import AlignStyle
from eyesel.text.prompt import loras as tags
from eyesel.text.tokenizer import ClipTokenizer
from eyesel.weights.checkpoint import open_stable_diffusion
from eyesel.weights.diffusers_folder import Recommended, recommended
from eyesel.weights.hub import resolve
from eyesel.weights.ip_adapter import with_image_prompt
from eyesel.weights.library import Library
from eyesel.weights.lora import LoraLike, with_loras
from eyesel.weights.painter import Options
from eyesel.weights.placement import choose_device
from eyesel.weights.textual_inversion import Embedding, open_embedding

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
        library: Library | None = None,
    ) -> None:
        self.unet, self.autoencoder = unet, autoencoder
        self.text_encoders, self.tokenizers = text_encoders, tokenizers
        self.scheduler, self.zero_negative, self.name = scheduler, zero_negative, name
        self.recommended, self.library = recommended, library
        self.image_prompts: tuple[ImagePrompt, ...] = ()
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
        models_dir: str | Path | None = None,
        offline: bool = False,
    ) -> "StableDiffusion":
        """Open `tiny` (bundled), a hub name (`owner/name[@revision]`), a diffusers folder, or a single .safetensors or
        .ckpt file of SD 1.x, 2.x or XL.

        `variant` picks weight files of a folder, such as `*.fp16.safetensors`; `ema` takes the averaged weights of a
        single file. `vae` is the file or folder of another autoencoder. `prediction_type` ("epsilon", "v_prediction")
        and `zero_terminal_snr` overrule what the checkpoint says of its training. `models_dir`, or the environment
        variable EYESEL_MODELS, is a folder of AUTOMATIC1111 or ComfyUI, or a flat one, in which the checkpoints, LoRAs
        and embeddings are that names and prompts ask for. Raises `CheckpointError` for other families.
        """
        library = Library.open(models_dir)
        if library is not None:
            name, vae = library.checkpoints().get(str(name), name), library.vaes().get(str(vae), vae)
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
            library=library,
        )

    def with_loras(self, loras: Sequence[LoraLike], fuse: bool = True) -> "StableDiffusion":
        """Another painter, with LoRAs applied; this one stays as it is, and they share whatever is not changed.

        A LoRA is a path, (path, weight) or (path, text weight, UNet weight), of any family: kohya's, LyCORIS',
        diffusers' or PEFT's. `fuse` makes new weights; without it the LoRAs' factors stay apart, which takes a few
        megabytes instead of a second set of weights, and is a little slower. Raises `CheckpointError`.
        """
        adapted = with_loras(self.unet, self.text_encoders, loras, fuse)
        return self._version(adapted.unet, adapted.text_encoders, adapted.words)

    def asked_for(
        self, prompts: Sequence[str], negative: str | None = None, loras: Sequence[LoraLike] = ()
    ) -> tuple["StableDiffusion", list[str]]:
        """The painter with `loras` and what prompts ask for besides, and the prompts without their `<lora:...>`.

        LoRAs and the words of textual inversions are looked up in the folder of models.
        """
        read = [tags(prompt) for prompt in prompts]
        wanted = read[0][1] if read else []
        if any(others != wanted for _, others in read):
            raise SettingError("These prompts ask for different LoRAs: paint them in calls of their own.")
        _, avoided = tags(negative or "")
        if avoided:
            raise SettingError(f"The negative prompt asks for the LoRA {avoided[0].name!r}: ask for it in the prompt.")
        if wanted and self.library is None:
            raise SettingError(
                f"The prompt asks for the LoRA {wanted[0].name!r}, and there is no folder to find it in: name one with "
                "models_dir (--models-dir) or the environment variable EYESEL_MODELS."
            )
        painter, said = self, [text for text, _ in read]
        if self.library is not None:
            loras = [*loras, *self.library.loras_of(wanted)]
            painter = painter.with_embeddings(self._fitting(self.library.embeddings_in(*said, negative or "")))
        return painter.with_loras(loras) if loras else painter, said

    def _fitting(self, files: Sequence[Path]) -> list[Embedding]:
        """The embeddings that were made for text encoders like these; of the others the word is a word."""
        fitting, dims = [], tuple(encoder.config.dim for encoder in self.text_encoders)
        for embedding in map(open_embedding, files):
            if embedding.widths == dims:
                fitting.append(embedding)
            else:
                made_for = embedding.base or "another model"
                warnings.warn(f"{embedding.where} is for {made_for}: {embedding.words[0]!r} is a word", stacklevel=2)
        return fitting

    def with_embeddings(self, embeddings: Sequence[str | Path | Embedding]) -> "StableDiffusion":
        """Another painter, which shares everything with this one and knows the words of textual inversions besides.

        A word is the stem of its file and, in files of diffusers, the token that they name. Raises `CheckpointError`.
        """
        opened = [each if isinstance(each, Embedding) else open_embedding(each) for each in embeddings]
        return self._version(self.unet, self.text_encoders, opened)

    def with_image_prompt(
        self,
        adapter: str | Path,
        image: Any,
        scale: float = 1.0,
        blocks: Blocks = "all",
        image_encoder: str | Path | None = None,
    ) -> "StableDiffusion":
        """Another painter, which is told of pictures besides the prompt, by an IP-Adapter; it shares all its weights.

        `adapter` is a `.safetensors` or `.bin` file, plain, plus or of faces (but not FaceID); `image` what
        `open_image` takes, or a list of several that are shown together; `image_encoder` the folder or file of CLIP's
        image encoder, by default the folder of that name beside the adapter. `scale` weighs pictures against words: 1
        is much, 0.5 balanced. `blocks` says where: "all", "style", "layout", "style+layout", or numbers by block as
        diffusers has them, {"down": {"block_2": [0, 1]}, "up": {"block_0": [0, 1, 0]}}. A second adapter is added to
        the first. Raises `CheckpointError` for adapters of another model or image encoder.
        """
        other = copy.copy(self)
        other.unet, prompt = with_image_prompt(self.unet, adapter, image, scale, blocks, image_encoder)
        other.image_prompts = (*self.image_prompts, prompt)
        return other

    def _version(self, unet: UNet, text_encoders: list[ClipText], words: Sequence[Embedding]) -> "StableDiffusion":
        dims = [encoder.config.dim for encoder in text_encoders]
        learned = [(word, each.vectors_for(dims)) for each in words for word in each.words]
        other = copy.copy(self)
        other.unet, other.text_encoders = unet, text_encoders
        other.prompt_encoder = self.prompt_encoder.version(text_encoders, learned)
        return other

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
        loras: Sequence[LoraLike] = (),
        noise: Tensor | None = None,
        tap: Tap | None = None,
        align_style: bool = False,
        align_norms: bool = False,
        **settings: Any,
    ) -> Iterator[Painting]:
        """The generator under `generate`: one `Painting` a step, so that the caller can show, stop or measure.

        Prompts are of any length and follow AUTOMATIC1111's conventions: `(word:1.2)` and `[word]` weigh words, `BREAK`
        starts a new chunk, `[fox:owl:0.4]` and `[fox|owl]` change over the steps that are made, `a fox AND an owl :1.2`
        combines prompts (not in the negative one), `<lora:name:0.8>` applies a LoRA of the folder of models, and the
        name of a textual inversion is a word; `\\(` is a plain bracket.

        `image` is a picture to start from and `mask` what of it is repainted (see `inpaint`). Picture i starts from
        seed + i, or, with a variation, from `seed` and variation_seed + i; without a seed one is drawn. `noise` (B,
        channels, h, w), of variance 1, replaces the seeds' first draw. `loras` are those of `with_loras`. With
        `align_style` the pictures get the style of the first one (StyleAligned), which is painted as it would be alone;
        `align_norms` brings them nearer to it, and further from their own words. All else are `Settings`.
        """
        chosen = Settings.of(settings)
        chosen.check_for(image is not None, mask is not None)
        prompts = list(prompt) if isinstance(prompt, list | tuple) else [prompt]
        painter, said = self.asked_for(prompts, chosen.negative, loras)
        if not prompts or any(not p.strip() for p in prompts):
            raise SettingError("The prompt is empty: say what to paint.")
        if not isinstance(n, int) or n < 1:
            raise SettingError(f"n is {n!r}; at least one picture has to be painted.")
        said, typed = ([text for text in each for _ in range(n)] for each in (said, prompts))
        if align_style or align_norms:
            painter, tap = painter._aligned(len(said), tap, align_style, align_norms), AlignStyle(len(said))
        return painter._steps(said, typed, image, mask, seed, noise, tap, chosen, align_style)

    def _aligned(self, count: int, tap: Tap | None, style: bool, norms: bool) -> "StableDiffusion":
        """The painter of one call that aligns `count` pictures."""
        if not style:
            raise SettingError("align_norms strengthens align_style: give both.")
        if count < 2:
            raise SettingError("align_style gives pictures the style of the first: ask for several, with n or prompts.")
        if tap is not None:
            raise SettingError("align_style is a tap of its own: leave out one of the two.")
        if not norms:
            return self
        other = copy.copy(self)
        other.unet = with_shared_norms(self.unet, count)
        return other

    def _steps(
        self,
        prompts: list[str],
        typed: list[str],
        image: Any,
        mask: Any,
        seed: int | None,
        noise: Tensor | None,
        tap: Tap | None,
        chosen: Settings,
        aligned: bool,
    ) -> Iterator[Painting]:
        """The same for prompts, one for each image, without the tags that were `typed`."""
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
            image_prompts=self.image_prompts,
            aligned=aligned,
        )
        known = None if canvas is None else self._known(canvas, chosen)
        first = Pass(call, size, self._latent_shape(len(prompts), size), call.steps, known, noise)
        larger = self._larger(call, size)
        strength = None if known is None else known.strength
        return self._paint(call, first, larger, partial(self._finished, call, typed, canvas, size, strength))

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
        self,
        call: Call,
        typed: list[str],
        canvas: Canvas | None,
        size: tuple[int, int],
        strength: float | None,
        latents: Tensor,
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
            own = {"prompt": typed[i], **record}
            if call.aligned:
                own["aligned_with"] = {"prompt": typed[0], "seed": call.seeds[0]}
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
            x: Tensor,
            t: Tensor,
            context: Tensor,
            pooled: Tensor | None = None,
            sizes: Tensor | None = None,
            **images: Tensor,
        ) -> Tensor:
            added = None if pooled is None or sizes is None else SizeConditioning(pooled, sizes)
            text = context.to(dtype)
            told = Prompted(text, tuple(images.values())) if images else text
            with torch.inference_mode():
                return self.unet(x.to(dtype), t, told, added, tap).float()

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
