"""The easel: Stable Diffusion 1.x, 2.x and XL, from a prompt to pictures."""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from eyesel.easel import Easel
from eyesel.errors import CheckpointError, SettingError
from eyesel.fields import plain
from eyesel.models.clip_text import ClipText
from eyesel.models.image_blocks import Blocks
from eyesel.models.unet import UNet
from eyesel.nn.aligned import with_shared_norms
from eyesel.nn.attention import Tap
from eyesel.nn.stage import Stage
from eyesel.picture import Painting, Picture
from eyesel.run import Run, check_task
from eyesel.settings import Settings
from eyesel.stylize import (
    Inversions,
    Parts,
    StyleSettings,
    Transfer,
    decoder_layers,
    described,
    detailed,
    pictures_of,
)
from eyesel.stylize.inversions import fingerprint
from eyesel.taps.align import AlignStyle
from eyesel.text.prompt import loras as tags
from eyesel.weights.checkpoint import open_stable_diffusion
from eyesel.weights.diffusers_folder import recommended
from eyesel.weights.hub import resolve
from eyesel.weights.ip_adapter import with_image_prompt
from eyesel.weights.library import Library
from eyesel.weights.lora import LoraLike, lora_file, with_loras
from eyesel.weights.painter import Options
from eyesel.weights.placement import choose_device
from eyesel.weights.textual_inversion import Embedding, open_embedding


class StableDiffusion(Easel):
    """Made by `StableDiffusion.load("tiny")`. Calls share only the weights, so threads can share an object."""

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
        offload: bool = False,
        offline: bool = False,
    ) -> "StableDiffusion":
        """Open `tiny` (bundled), a hub name (`owner/name[@revision]`), a diffusers folder, or a single .safetensors or
        .ckpt file of SD 1.x, 2.x or XL.

        `variant` picks weight files of a folder, such as `*.fp16.safetensors`; `ema` takes the averaged weights of a
        single file. `vae` is the file or folder of another autoencoder. `prediction_type` ("epsilon", "v_prediction")
        and `zero_terminal_snr` overrule what the checkpoint says of its training. `models_dir`, or the environment
        variable EYESEL_MODELS, is a folder of AUTOMATIC1111 or ComfyUI, or a flat one, in which the checkpoints, LoRAs
        and embeddings are that names and prompts ask for. With `offload` the weights stay in the memory of the host,
        and each model is on the accelerator only while it works: less of its memory, more time. Raises
        `CheckpointError` for other families.
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
        works_on = choose_device(device)
        if offload and works_on.type == "cpu":
            raise SettingError("offload is for accelerators, and these models work on the CPU: leave it out.")
        storage = torch.device("cpu") if offload else None
        parts = open_stable_diffusion(path, works_on, precision, options, storage)
        painter = cls(
            parts.unet,
            parts.autoencoder,
            parts.text_encoders,
            parts.tokenizers,
            parts.scheduler,
            zero_negative=bool(parts.index.get("force_zeros_for_empty_prompt")),
            name=str(name),
            recommended=recommended(path),
            library=library,
            device=works_on if offload else None,
        )
        asked = {
            "vae": None if vae is None else str(vae),
            "variant": variant,
            "ema": ema or None,
            "prediction_type": prediction_type,
            "zero_terminal_snr": zero_terminal_snr,
        }
        painter.remarks = {name: value for name, value in asked.items() if value is not None}
        return painter

    def with_loras(self, loras: Sequence[LoraLike], fuse: bool = True) -> "StableDiffusion":
        """Another painter, with LoRAs applied; this one stays as it is, and they share whatever is not changed.

        A LoRA is a path, (path, weight) or (path, text weight, UNet weight), of any family: kohya's, LyCORIS',
        diffusers' or PEFT's. `fuse` makes new weights; without it the LoRAs' factors stay apart, which takes a few
        megabytes instead of a second set of weights, and is a little slower. Raises `CheckpointError`.
        """
        other = self._adapted(loras, fuse)
        added = [[str(lora.path), lora.text_weight, lora.both[1]] for lora in map(lora_file, loras)]
        other.remarks = {**self.remarks, "loras": [*self.remarks.get("loras", []), *added]}
        return other

    def _adapted(self, loras: Sequence[LoraLike], fuse: bool = True) -> "StableDiffusion":
        adapted = with_loras(self.unet, self.text_encoders, loras, fuse)
        return self._version(adapted.unet, adapted.text_encoders, adapted.words)

    def asked_for(
        self, prompts: Sequence[str], negative: str | None = None, loras: Sequence[LoraLike] = ()
    ) -> tuple["StableDiffusion", list[str]]:
        """The painter with `loras` and what prompts ask for besides, and the prompts without their `<lora:...>`.

        LoRAs and the words of textual inversions are looked up in the folder of models.
        """
        read = [tags(prompt) for prompt in prompts]  # which also refuses what is no text
        if not prompts or any(not prompt.strip() for prompt in prompts):
            raise SettingError("The prompt is empty: say what to paint.")
        wanted = read[0][1]
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
            if tagged := self.library.loras_of(wanted):  # which the prompt itself records
                painter = painter._adapted(tagged)
            learned = self._fitting(self.library.embeddings_in(*said, negative or ""))
            painter = painter.with_embeddings(learned) if learned else painter
        return painter.with_loras(loras) if loras else painter, said

    def _fitting(self, files: Sequence[Path]) -> list[Embedding]:
        """The embeddings that were made for text encoders like these; of the others the word is a word."""
        fitting, dims = [], tuple(encoder.config.dim for encoder in self.text_encoders)
        for file in files:
            if file.stem.lower() in self.prompt_encoder.words.ids:
                continue
            try:
                embedding = open_embedding(file)
            except CheckpointError as error:
                warnings.warn(f"{file.stem!r} is a word: {error}", stacklevel=2)
                continue
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
        if isinstance(embeddings, str | Path):
            raise SettingError(f"embeddings are a list, such as [{str(embeddings)!r}].")
        opened = [each if isinstance(each, Embedding) else open_embedding(each) for each in embeddings]
        other = self._version(self.unet, self.text_encoders, opened)
        words = [embedding.words[0] for embedding in opened]
        other.remarks = {**self.remarks, "embeddings": [*self.remarks.get("embeddings", []), *words]}
        return other

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

    @overload
    def inpaint(self, image: Any, mask: Any, prompt: str, *, n: None = None, **settings: Any) -> Picture: ...
    @overload
    def inpaint(self, image: Any, mask: Any, prompt: str, *, n: int, **settings: Any) -> list[Picture]: ...
    def inpaint(
        self, image: Any, mask: Any, prompt: str, *, n: int | None = None, **settings: Any
    ) -> Picture | list[Picture]:
        """Repaint where the mask is white, once or `n` times; everything else stays, bit for bit.

        `image` and `mask` are what `open_image` takes, of one size; "alpha" is the mask that is white where the picture
        is transparent. With `expand` the canvas grows, and the mask may be None.
        """
        if mask is None and settings.get("expand") is None:
            raise SettingError("There is nothing to repaint: give a mask, or expand the canvas.")
        return self.generate(prompt, n=n, image=image, mask=mask, **settings)

    def steps(
        self,
        prompt: str | list[str],
        *,
        image: Any = None,
        mask: Any = None,
        seed: int | Sequence[int] | None = None,
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
        seed + i, or, with a variation, from `seed` and variation_seed + i; a list has a seed for each picture, and
        without one it is drawn. `noise` (B, channels, h, w), of variance 1, replaces the seeds' first draw. `loras` are
        those of `with_loras`. With `align_style` the pictures get the style of the first one (StyleAligned), which is
        painted as it would be alone; `align_norms` brings them nearer to it, and further from their own words. All else
        are `Settings`.
        """
        chosen = Settings.of(settings)
        chosen.check_for(image is not None, mask is not None)
        prompts = list(prompt) if isinstance(prompt, list | tuple) else [prompt]
        painter, said = self.asked_for(prompts, chosen.negative, loras)
        n = plain(n)
        if not isinstance(n, int) or n < 1:
            raise SettingError(f"n is {n!r}; at least one picture has to be painted.")
        said, typed = ([text for text in each for _ in range(n)] for each in (said, prompts))
        own: dict[str, Any] = {"image": image, "mask": mask, "seed": seed, "noise": noise, "tap": tap}
        return painter.steps_of(said, typed, align_style=align_style, align_norms=align_norms, **own, **settings)

    def steps_of(
        self,
        said: Sequence[str],
        typed: Sequence[str],
        *,
        image: Any = None,
        mask: Any = None,
        seed: int | None = None,
        noise: Tensor | None = None,
        tap: Tap | None = None,
        align_style: bool = False,
        align_norms: bool = False,
        **settings: Any,
    ) -> Iterator[Painting]:
        """`steps` of prompts that `asked_for` has read: what is `said` of each picture, and what was `typed` for it."""
        chosen = Settings.of(settings)
        chosen.check_for(image is not None, mask is not None)
        painter = self
        if align_style or align_norms:
            painter, tap = self._aligned(len(said), tap, align_style, align_norms), AlignStyle(len(said))
        return Run(painter, [*said], [*typed], chosen, image, mask, seed, noise, tap, align_style).paintings()

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
        check_task(self, canvas)
        self.picture_size(canvas.view.size)
        painter, said = self, prompt
        if prompt is not None:
            painter, [said] = self.asked_for([prompt])
        stage = Stage(painter.unet, self.device)
        parts = Parts(
            self.unet.config,
            lambda tap: painter.network(stage, tap),
            painter.prompt_encoder.encode,
            self.encode,
            self.scheduler,
            self.zero_negative,
            fingerprint([painter.unet, self.autoencoder, *painter.text_encoders]),
            self.device,
            self.image_prompts,
        )
        kept = inversions if isinstance(inversions, Inversions) else Inversions(inversions)
        guidance = self.recommended.guidance_scale if chosen.guidance is None else chosen.guidance
        transfer = Transfer(parts, chosen, canvas, styles, shares, said, guidance, kept)
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
            made = self.decode(transfer.matched(latents[:1]))[0]
            if settings.share < 1:
                back = self.decode(self.encode([canvas.view]))[0]
                made = detailed(made, canvas.view, back, 1 - settings.share)
            image = canvas.pasted(transfer.recolored(made))
        record = {
            **said,
            "style_strength": settings.dial,
            "style_gamma": settings.own_gamma,
            "style_temperature": settings.own_temperature,
            "style_layers": tuple(transfer.layers),
            "style_color": settings.colors,
            "style_match": settings.own_match,
            "faithful": settings.faithful,
            "steps": settings.steps,
            "guidance": transfer.guidance,
            "solver": "ddim",
            "width": image.width,
            "height": image.height,
            "model": self.name,
            **self.remarks,
        }
        return [Picture(image, 0, record)]

    @property
    def style_layers(self) -> dict[int, str]:
        """The layers that `stylize` can inject a style into, by number and name."""
        return decoder_layers(self.unet.config)
