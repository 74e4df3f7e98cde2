"""What the easel gives back: finished pictures with their settings, and pictures in the making."""

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from textwrap import shorten
from typing import Any

from PIL import Image
from torch import Tensor

from eyesel import __version__, infotext
from eyesel.errors import ImageError, SettingError
from eyesel.images import MAX_PIXELS, open_image, read_metadata, save_image


def check_enlargement(size: tuple[int, int], factor: int) -> None:
    """Refuse what could not be opened again."""
    width, height = size
    if factor < 1 or width * height * factor**2 > MAX_PIXELS:
        raise SettingError(
            f"A picture of {width}x{height} pixels cannot be enlarged {factor} times; take from 1 to "
            f"{math.isqrt(MAX_PIXELS // (width * height))}."
        )


@dataclass(frozen=True, eq=False)
class Picture:
    """A painted picture and everything that it takes to paint it again."""

    image: Image.Image
    seed: int
    settings: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "Picture":
        """A picture that was saved, or painted by a program whose records are understood, and its settings."""
        settings = read_record(path).settings
        if "seed" not in settings:
            raise ImageError(f"{path} does not say the seed that it was painted from: open it with open_image.")
        return cls(open_image(path), settings.pop("seed"), settings)

    @property
    def record(self) -> dict[str, Any]:
        """What its file keeps: the settings, the seed, and the version that painted it."""
        return {"version": f"eyesel {__version__}", **self.settings, "seed": self.seed}

    @property
    def parameters(self) -> str:
        """The settings as the text that AUTOMATIC1111 writes into its pictures, and other programs read."""
        return infotext.format(self.record)

    def enlarged(self, factor: int) -> Image.Image:
        """Each pixel as a square of `factor` pixels: how small pictures are best looked at."""
        check_enlargement(self.image.size, factor)
        return self.image.resize((self.image.width * factor, self.image.height * factor), Image.Resampling.NEAREST)

    def save(self, path: str | Path, enlarge: int = 1) -> None:
        """Write a PNG, JPEG or WebP with prompt, seed and settings in its metadata."""
        save_image(self.enlarged(enlarge), path, infotext.metadata(self.record))


# What is said to a painter before it is asked to paint
OF_THE_PAINTER = {
    "load": ("vae", "variant", "ema", "prediction_type", "zero_terminal_snr"),
    "with_embeddings": ("embeddings",),
    "with_image_prompt": ("adapter", "adapter_images", "adapter_scale", "image_encoder"),
}


def read_record(path: str | Path) -> infotext.Record:
    """What the file of a picture says about how it was painted; `ImageError` where it says nothing."""
    texts = read_metadata(path)
    try:
        record = infotext.read(texts)
    except SettingError as error:
        raise ImageError(f"{path} does not say clearly how it was painted: {error}") from None
    if record is None:
        raise ImageError(f"{path} does not say how it was painted: its settings were never in it, or were removed.")
    return record


def settings_from(path: str | Path) -> dict[str, Any]:
    """The settings that paint a picture again: the keywords of `StableDiffusion.steps`, and the name of its `model`.

        settings = settings_from("fox.png")
        StableDiffusion.load(settings.pop("model")).generate(**settings)

    What the file says besides is told in a warning. Raises `ImageError`.
    """
    settings = options_from(path)
    for method, names in OF_THE_PAINTER.items():
        if said := {name: settings.pop(name) for name in names if name in settings}:
            warnings.warn(f"{path} was painted after {method} had been given {_told(said)}", stacklevel=2)
    return settings


def options_from(path: str | Path) -> dict[str, Any]:
    """The same, and what the painter was told before: the command line has options for that."""
    record = read_record(path)
    settings = dict(record.settings)
    if "prompt" not in settings:
        raise ImageError(f"{path} is of {record.program}, and its prompt was not found: type the settings by hand.")
    for name in ("version", "model_hash"):
        settings.pop(name, None)
    if "width" in settings and "height" in settings:
        settings["size"] = settings.pop("width"), settings.pop("height")
    outside = [
        lora
        for lora in settings.pop("loras", ())
        if not re.search(rf"<lora:{re.escape(PurePath(lora[0]).stem)}[:>]", settings["prompt"])
    ]
    if outside:
        settings["loras"] = outside
    if not settings.get("variation_strength"):
        settings.pop("variation_seed", None)
    if not settings.get("hires"):  # others write settings of a pass that they did not make
        for name in ("hires_steps", "hires_strength", "hires_upscaler"):
            settings.pop(name, None)
    if record.otherwise:
        warnings.warn(f"{path} was edited; its text says {_told(record.otherwise)}, which is not taken", stacklevel=2)
    if record.unknown:
        warnings.warn(f"{path} also says what means nothing here: {_told(record.unknown)}", stacklevel=2)
    return settings


def _told(said: dict[str, Any]) -> str:
    return shorten(infotext.printable(", ".join(f"{name}: {value}" for name, value in said.items())), 300)


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
