"""What the easel gives back: finished pictures with their settings, and pictures in the making."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from eyesel.errors import SettingError
from eyesel.images import MAX_PIXELS, save_image


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

    @property
    def parameters(self) -> str:
        """The settings as the text that AUTOMATIC1111 writes into its pictures, and other programs read."""
        s = self.settings
        lines = [s["prompt"]]
        if s["negative"]:
            lines.append(f"Negative prompt: {s['negative']}")
        interval = s["guidance_interval"]
        entries = {
            "Steps": s["steps"],
            "Sampler": s["solver"],
            "Schedule type": s["schedule"],
            "CFG scale": f"{s['guidance']:g}",
            "Guidance rescale": s["guidance_rescale"] or None,
            "Guidance interval": interval and f"{interval[0]:g}-{interval[1]:g}",
            "Seed": self.seed,
            "Size": f"{s['width']}x{s['height']}",
            "Model": s["model"],
            "Clip skip": s["clip_skip"],
            "Eta": s["eta"],
            "RNG": "NV" if s["rng"] == "philox" else None,
            "Emphasis": s["emphasis"].capitalize() if s["emphasis"] != "original" else None,
        }
        lines.append(", ".join(f"{name}: {value}" for name, value in entries.items() if value is not None))
        return "\n".join(lines)

    def enlarged(self, factor: int) -> Image.Image:
        """Each pixel as a square of `factor` pixels: how small pictures are best looked at."""
        check_enlargement(self.image.size, factor)
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
