"""The easel: Stable Diffusion 1.x, 2.x and XL, from a prompt to pictures."""

import copy
import operator
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from eyesel.conditioning import EncodedText, PromptEncoder, Script, by_length, emphasis_mode
from eyesel.diffusion import (
    Composition,
    Denoiser,
    NoiseSource,
    StepDenoiser,
    from_scheduler_config,
    guided,
    within,
)
from eyesel.errors import CheckpointError, SettingError
from eyesel.images import to_pil
from eyesel.models.autoencoder import Autoencoder
from eyesel.models.clip_text import ClipText
from eyesel.models.unet import SizeConditioning, UNet
from eyesel.nn.attention import Tap
from eyesel.picture import Painting, Picture
from eyesel.text.prompt import loras
from eyesel.text.tokenizer import ClipTokenizer
from eyesel.weights.checkpoint import open_stable_diffusion
from eyesel.weights.diffusers_folder import Recommended, recommended
from eyesel.weights.hub import resolve
from eyesel.weights.lora import LoraLike, with_loras
from eyesel.weights.painter import Options
from eyesel.weights.placement import choose_device
from eyesel.weights.textual_inversion import Embedding, open_embedding

SIZE_STEP = 8  # pixels: width and height are multiples of it
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
        self.prompt_encoder = PromptEncoder(text_encoders, tokenizers, xl=unet.config.added_dim is not None)

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

    def with_loras(self, loras: Sequence[LoraLike], fuse: bool = True) -> "StableDiffusion":
        """Another painter, with LoRAs applied; this one stays as it is, and they share whatever is not changed.

        A LoRA is a path, (path, weight) or (path, text weight, UNet weight), of any family: kohya's, LyCORIS',
        diffusers' or PEFT's. `fuse` makes new weights; without it the LoRAs' factors stay apart, which takes a few
        megabytes instead of a second set of weights, and is a little slower. Raises `CheckpointError`.
        """
        adapted = with_loras(self.unet, self.text_encoders, loras, fuse)
        return self._version(adapted.unet, adapted.text_encoders, adapted.words)

    def with_embeddings(self, embeddings: Sequence[str | Path | Embedding]) -> "StableDiffusion":
        """Another painter, which shares everything with this one and knows the words of textual inversions besides.

        A word is the stem of its file and, in files of diffusers, the token that they name. Raises `CheckpointError`.
        """
        opened = [each if isinstance(each, Embedding) else open_embedding(each) for each in embeddings]
        return self._version(self.unet, self.text_encoders, opened)

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
        steps: int | None = None,
        guidance: float | None = None,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] | None = None,
        solver: str | None = None,
        schedule: str | None = None,
        eta: float | None = None,
        rng: str = "cpu",
        seed: int | None = None,
        size: tuple[int, int] | None = None,
        n: int = 1,
        clip_skip: int | None = None,
        emphasis: str = "original",
        noise: Tensor | None = None,
        tap: Tap | None = None,
    ) -> Iterator[Painting]:
        """The generator under `generate`: one `Painting` a step, so that the caller can show, stop or measure.

        Prompts are of any length and follow AUTOMATIC1111's conventions: `(word:1.2)` and `[word]` weigh words, `BREAK`
        starts a new chunk, `[fox:owl:0.4]` and `[fox|owl]` change over the steps, `a fox AND an owl :1.2` combines
        prompts (not in the negative one); `\\(` is a plain bracket. `emphasis` says what weights do: "original", "no
        norm", "ignore", or "none", which makes brackets plain text. `clip_skip` n takes the text encoder's n-th layer
        from the end (None: what the checkpoint was trained with).

        `size` is (width, height) in pixels, by default what the checkpoint was trained at. Picture i starts from seed
        + i; without a seed one is drawn. `noise` (B, channels, h, w), of variance 1, replaces the seeds' first draw.

        `steps` and `guidance` None are what the checkpoint recommends, else 25 and 7.5.

        `solver`, `schedule` and `eta` None are the checkpoint's and the solver's own; names such as "DPM++ 2M Karras"
        are understood. Guidance acts at the noise levels of `guidance_interval` (low, high), and `guidance_rescale`
        takes some of its contrast away. `rng` "philox" draws the noise of a GPU, as AUTOMATIC1111 does.
        """
        prompts = list(prompt) if isinstance(prompt, list | tuple) else [prompt]
        for text in (*prompts, negative or ""):
            _, wanted = loras(text)  # which also refuses what is no text
            if wanted:
                raise SettingError(f"The prompt asks for the LoRA {wanted[0].name!r}, which cannot be applied yet.")
        if not prompts or any(not p.strip() for p in prompts):
            raise SettingError("The prompt is empty: say what to paint.")
        if not isinstance(n, int) or n < 1:
            raise SettingError(f"n is {n!r}; at least one picture has to be painted.")
        self._check_task()
        steps = self.recommended.num_inference_steps if steps is None else steps
        guidance = self.recommended.guidance_scale if guidance is None else guidance
        width, height = self.picture_size(size)
        plan = from_scheduler_config(self.scheduler, solver, eta, schedule, xl=self.unet.config.added_dim is not None)
        run_schedule = plan.schedule(steps)
        seed = secrets.randbelow(2**32) if seed is None else whole_seed(seed, len(prompts) * n)

        prompts = [p for p in prompts for _ in range(n)]
        seeds = [seed + i for i in range(len(prompts))]
        source = NoiseSource(seeds, self.device, rng)
        encode = partial(self.prompt_encoder.encode, clip_skip=clip_skip, emphasis=emphasis)
        script = Script(prompts, negative or "", steps, encode)
        said = self._said(script, steps, (width, height), zero=negative is None)
        network, composition = by_length(self._network(tap)), self._composition(script)

        def guided_by(guidance: float, rescale: float = 0.0) -> StepDenoiser:
            networks = {key: guided(network, *inputs, guidance, rescale, composition) for key, inputs in said.items()}
            denoisers = [Denoiser(networks[script.at(step)], run_schedule) for step in range(1, steps + 1)]
            return StepDenoiser(denoisers, run_schedule)

        denoise = within(guidance_interval, guided_by(guidance, guidance_rescale), guided_by(1))
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
            "guidance_rescale": guidance_rescale,
            "guidance_interval": guidance_interval,
            "solver": plan.solver,
            "schedule": plan.spread,
            "eta": eta,
            "rng": rng,
            "width": width,
            "height": height,
            "clip_skip": clip_skip,
            "emphasis": emphasis_mode(emphasis),
            "model": self.name,
        }

        def finish(latents: Tensor) -> list[Picture]:
            return [
                Picture(image, seed, {"prompt": prompt, **settings})
                for image, seed, prompt in zip(self.decode(latents), seeds, prompts, strict=True)
            ]

        def run() -> Iterator[Painting]:
            x = plan.start(first, run_schedule)
            for step in plan.solve(denoise, x, run_schedule, source):
                yield Painting(step.index, steps, step.x, step.denoised, finish)

        return run()

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
                return self.unet(x.to(dtype), t, context, added, tap).float()

        return network

    def _said(
        self, script: Script, steps: int, size: tuple[int, int], zero: bool
    ) -> dict[tuple[str, ...], tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """The network's conditional and unconditional inputs, for each thing that is said in the course of a run."""
        return {
            script.at(step): (
                self._inputs(script.conditional(step), size),
                self._inputs(script.unconditional(step), size, zero),
            )
            for step in {script.at(step): step for step in range(1, steps + 1)}.values()
        }

    def _composition(self, script: Script) -> Composition | None:
        if len(script.images) == len(script.chunks):
            return None
        return Composition(
            torch.tensor(script.images, device=self.device), torch.tensor(script.weights, device=self.device)
        )

    def _inputs(self, texts: list[EncodedText], size: tuple[int, int], zero: bool = False) -> dict[str, Tensor]:
        """What the UNet is told, row by row: `context`, its `length` if rows differ, for SDXL `pooled` and `sizes`."""
        dtype = self.unet.conv_in.weight.dtype
        contexts = [text.context.flatten(0, 1).to(dtype) for text in texts]
        lengths = [len(context) for context in contexts]
        inputs = {"context": pad_sequence(contexts, batch_first=True)}
        if len(set(lengths)) > 1:
            inputs["length"] = torch.tensor(lengths, device=self.device)
        if self.unet.config.added_dim is None:
            return inputs
        inputs["pooled"] = torch.stack([text.pooled for text in texts]).to(dtype)
        if zero and self.zero_negative:  # SDXL was trained with zeros, not with the empty prompt
            inputs |= {name: torch.zeros_like(inputs[name]) for name in ("context", "pooled")}
        width, height = size
        inputs["sizes"] = torch.tensor([[height, width, 0, 0, height, width]] * len(texts), device=self.device)
        return inputs


def whole_seed(seed: Any, count: int) -> int:
    """`seed` as an int (NumPy's count too), if `count` seeds from there on exist."""
    try:
        first = operator.index(seed)
    except TypeError:
        raise SettingError(f"seed is {seed!r}; it must be a whole number.") from None
    if not 0 <= first <= 2**64 - count:
        raise SettingError(f"seed is {first}; it must be a whole number from 0 to {2**64 - count}.")
    return first
