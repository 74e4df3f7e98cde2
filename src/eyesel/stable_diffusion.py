"""The easel: Stable Diffusion 1.x, 2.x and XL, from words and pictures to pictures."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from eyesel.adaptable import AdaptableEasel
from eyesel.errors import SettingError
from eyesel.fields import plain
from eyesel.nn.aligned import with_shared_norms
from eyesel.nn.attention import Tap
from eyesel.picture import Painting, Picture
from eyesel.restyle import Restyling
from eyesel.run import Run
from eyesel.settings import Settings
from eyesel.stylize import Inversions, StyleSettings, decoder_layers
from eyesel.taps.align import AlignStyle
from eyesel.weights.checkpoint import open_stable_diffusion
from eyesel.weights.diffusers_folder import recommended
from eyesel.weights.hub import resolve
from eyesel.weights.library import Library
from eyesel.weights.lora import LoraLike
from eyesel.weights.painter import Options
from eyesel.weights.placement import choose_device


class StableDiffusion(AdaptableEasel):
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
        chosen = StyleSettings.of(settings)
        painter, said = self, prompt
        if prompt is not None:
            painter, [said] = self.asked_for([prompt])
        return Restyling(painter, content, style, weights, mask, said, prompt, chosen, inversions).paintings()

    @property
    def style_layers(self) -> dict[int, str]:
        """The layers that `stylize` can inject a style into, by number and name."""
        return decoder_layers(self.unet.config)
