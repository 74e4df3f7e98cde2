"""What a model can do, found out by doing it: each capability is one small call whose result is looked at."""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from eyesel.classifier import ImageClassifier
from eyesel.stable_diffusion import StableDiffusion
from eyesel.weights.lora_file import CONTEXTS

SMALL = 64  # pixels: painters are tried at most in this size

Probes = dict[str, Callable[[], bool | str]]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def classifier_probes(model: ImageClassifier) -> Probes:
    """Each gives whether it works, or in words how."""
    height, width = model.model.config.image_size
    picture = noise(width, height)

    def finite(values: Any) -> bool:
        return bool(np.isfinite(np.asarray(values)).all())

    def other_size() -> bool:
        patch = model.model.config.patch_size
        size = (height + 2 * patch[0], width + 2 * patch[1])
        other = ImageClassifier.load(model.name, image_size=size, device=str(model.device), offline=True)
        return finite(other.embed(noise(*size[::-1]), "mean"))

    return {
        "classify": lambda: finite([each.score for each in model.classify(picture)]) and model.default_function,
        "embed": lambda: finite(model.embed(picture)),
        "embed patches": lambda: finite(model.embed(picture, "grid")),
        "attention maps": lambda: finite(model.attention(picture).heat),
        "maps of a class": lambda: finite(model.attention(picture, "gradient-rollout", target=0).heat),
        "other picture sizes": other_size,
    }


def painter_probes(model: StableDiffusion) -> Probes:
    side = min(SMALL, *model.picture_size())
    settings: dict[str, Any] = {"size": (side, side), "steps": 2, "seed": 1, "guidance": 4.0, "solver": "euler"}
    picture, half = noise(side, side), Image.new("L", (side, side))
    half.paste(255, (0, 0, side // 2, side))

    def painted(painter: StableDiffusion = model, prompt: str = "a large fox", **more: Any) -> np.ndarray:
        return np.asarray(painter.generate(prompt, **(settings | more)).image, int)

    plain = cache(painted)  # once, and not before it is asked for

    def differs(other: np.ndarray) -> bool:
        return other.shape == plain().shape and bool((other != plain()).any())

    def inpainting() -> bool | str:
        more = settings | {"mask_blur": 0}
        result = np.asarray(model.inpaint(picture, half, "a large fox", **more).image)
        kept = np.array_equal(result[:, side // 2 :], np.asarray(picture)[:, side // 2 :])
        return kept and ("trained for it" if model.inpaints else "by blending")

    def styled() -> bool:
        result = model.stylize(picture, noise(side, side, 1), strength=0.8, steps=2).image
        return result.size == picture.size and not np.array_equal(np.asarray(result), np.asarray(picture))

    return {
        "text to image": lambda: differs(painted(prompt="a small owl on a red background")),
        "negative prompts": lambda: differs(painted(negative="a large owl, blue")),
        "weighted words": lambda: differs(painted(prompt="a (large:1.5) fox")),
        "image to image": lambda: differs(painted(image=picture, strength=0.5)),
        "inpainting": inpainting,
        "style transfer": styled,
        "two passes": lambda: painted(hires=2.0).shape[0] == 2 * side,
        "LoRAs": lambda: differs(painted(with_lora(model))) and lora_base(model),
    }


def with_lora(model: StableDiffusion) -> StableDiffusion:
    """The painter with a LoRA of random numbers on one of its attention layers."""
    named = model.unet.named_parameters()
    name, weight = next((name, weight) for name, weight in named if name.endswith("attn2.to_k.weight"))
    generator = torch.Generator().manual_seed(0)
    down, up = (torch.randn(shape, generator=generator) for shape in ((2, weight.shape[1]), (weight.shape[0], 2)))
    module = f"unet.{name.removesuffix('.weight')}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lora.safetensors"
        save_file({f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}, path)
        return model.with_loras([path])


def lora_base(model: StableDiffusion) -> str:
    width = model.unet.config.context_dim
    return f"{CONTEXTS.get(width, 'its own family')}, {width} numbers a token"
