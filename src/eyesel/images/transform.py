"""The one preprocessing of a classifier, which travels with its weights.

The reference is Pillow: its filters, and what transformers' PIL processors make of them, to the last bit.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eyesel.errors import CheckpointError, ImageError
from eyesel.images.decode import MAX_PIXELS, open_image

_HALF = (0.5, 0.5, 0.5)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_TIMM_MEAN, _TIMM_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # Pillow's codes

# What transformers' processor classes fill in for keys that a preprocessor_config.json leaves out.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {"size": 224, "resample": 2},
    "DeiT": {"size": 256, "do_center_crop": True},
    "Beit": {"size": 224},
    "Siglip": {"size": 224},
    "CLIP": {"size": {"shortest_edge": 224}, "do_center_crop": True, "image_mean": _CLIP_MEAN, "image_std": _CLIP_STD},
    "Bit": {"size": {"shortest_edge": 224}, "do_center_crop": True, "image_mean": _CLIP_MEAN, "image_std": _CLIP_STD},
}
_COMMON = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "do_normalize": True,
    "resample": 3,
    "crop_size": 224,
    "rescale_factor": 1 / 255,
    "image_mean": _HALF,
    "image_std": _HALF,
}
_INT_IS_SHORTEST_EDGE = ("CLIP", "Bit", "Siglip")  # elsewhere "size": 224 means 224 x 224


@dataclass(frozen=True)
class ImageTransform:
    """From PIL images to the tensor that a classifier reads: resize, centre crop, rescale, normalise, in this order.

    `size` is (height, width), or one number for the shorter edge with the shape kept, or None to leave the size
    alone; `crop` is (height, width) or None; `resample` is Pillow's filter code; `scale` multiplies the bytes; `mean`
    and `std` are in scaled units. The arithmetic is that of transformers' PIL image processors (`PilBackend` in
    `image_processing_backends.py`).
    """

    size: tuple[int, int] | int | None = (224, 224)
    crop: tuple[int, int] | None = None
    resample: int = 2
    scale: float | None = 1 / 255
    mean: tuple[float, float, float] | None = _HALF
    std: tuple[float, float, float] | None = _HALF

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ImageTransform":
        """Read a `preprocessor_config.json` of any age, or a timm `config.json`; raises `CheckpointError` naming
        the key.
        """
        if "pretrained_cfg" in config or "input_size" in config:
            return cls._from_timm(config.get("pretrained_cfg", config))
        kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "ViTImageProcessor")
        family = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", kind)
        if family not in _DEFAULTS:
            known = ", ".join(_DEFAULTS)
            raise CheckpointError(f"image_processor_type {kind!r} is not supported: eyesel reads those of {known}.")
        for key in ("crop_pct", "do_pad"):
            if config.get(key):
                raise CheckpointError(
                    f"{key} {config[key]!r} is not supported: write it as size, do_center_crop and crop_size."
                )
        given = {key: value for key, value in config.items() if value is not None}
        values = {**_COMMON, **_DEFAULTS[family], **given}
        flag = {key: _flag(key, values[key]) for key in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")}
        size = _size("size", values["size"], family in _INT_IS_SHORTEST_EDGE) if flag["do_resize"] else None
        crop = _size("crop_size", values["crop_size"], False) if flag["do_center_crop"] else None
        if isinstance(crop, int):
            raise CheckpointError(f"crop_size {values['crop_size']!r} has no shape: give its height and width.")
        resample = values["resample"]
        if isinstance(resample, bool) or resample not in _FILTERS.values():
            raise CheckpointError(f"resample {resample!r} is unknown: use Pillow's filter code, 0 to 5.")
        return cls(
            size=size,
            crop=crop,
            resample=int(resample),
            scale=_number("rescale_factor", values["rescale_factor"]) if flag["do_rescale"] else None,
            mean=_triple("image_mean", values["image_mean"]) if flag["do_normalize"] else None,
            std=_triple("image_std", values["image_std"], nonzero=True) if flag["do_normalize"] else None,
        )

    @classmethod
    def _from_timm(cls, config: Mapping[str, Any]) -> "ImageTransform":
        """timm's evaluation: shorter edge to floor(size / crop_pct), centre crop (timm's may lie a pixel further
        on).
        """
        if config.get("crop_mode", "center") != "center":
            raise CheckpointError(f"crop_mode {config['crop_mode']!r} is not supported: use 'center'.")
        interpolation = config.get("interpolation", "bicubic")
        if interpolation not in _FILTERS:
            raise CheckpointError(f"interpolation {interpolation!r} is unknown: use one of {', '.join(_FILTERS)}.")
        input_size = config.get("input_size", (3, 224, 224))
        if not isinstance(input_size, Sequence) or len(input_size) != 3 or input_size[1] != input_size[2]:
            raise CheckpointError(
                f"input_size {input_size!r} is not supported: use three channels and a square, (3, 224, 224)."
            )
        height, width = (_pixels("input_size", value) for value in input_size[1:])
        crop_pct = _number("crop_pct", config.get("crop_pct", 0.875))
        return cls(
            size=math.floor(height / crop_pct),
            crop=(height, width),
            resample=_FILTERS[interpolation],
            mean=_triple("mean", config.get("mean", _TIMM_MEAN)),
            std=_triple("std", config.get("std", _TIMM_STD), nonzero=True),
        )

    def to_config(self) -> dict[str, Any]:
        """A `preprocessor_config.json` that transformers and `from_config` read back as this transform."""
        # Of transformers' classes only CLIP's reads a shortest edge and a crop in every version.
        plain = self.crop is None and not isinstance(self.size, int)
        size = self.size or (224, 224)
        config: dict[str, Any] = {
            "image_processor_type": "ViTImageProcessor" if plain else "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": self.size is not None,
            "size": {"shortest_edge": size}
            if isinstance(size, int)
            else dict(zip(("height", "width"), size, strict=True)),
            "resample": self.resample,
            "do_center_crop": self.crop is not None,
            "do_rescale": self.scale is not None,
            "rescale_factor": 1 / 255 if self.scale is None else self.scale,
            "do_normalize": self.mean is not None,
            "image_mean": list(self.mean or _HALF),
            "image_std": list(self.std or _HALF),
        }
        if self.crop is not None:
            config["crop_size"] = {"height": self.crop[0], "width": self.crop[1]}
        return config

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(height, width) of what comes out, or None where it follows the picture."""
        return self.crop or (self.size if isinstance(self.size, tuple) else None)

    def with_size(self, height: int, width: int) -> "ImageTransform":
        """The same transform for another output size; a crop keeps its share of the picture."""
        if self.crop is None:
            return replace(self, size=(height, width))
        y, x = height / self.crop[0], width / self.crop[1]
        size = self.size
        if isinstance(size, int):
            size = round(size * max(y, x))
        elif size is not None:
            size = (round(size[0] * y), round(size[1] * x))
        return replace(self, size=size, crop=(height, width))

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures of any size and mode -> (B, 3, H, W) float32; `ImageError` where they come out with different
        sizes.
        """
        if not images:
            raise ImageError("there is no picture to preprocess: give at least one.")
        arrays = [self._resized(image) for image in images]
        sizes = {array.shape[:2] for array in arrays}
        if len(sizes) > 1:
            listed = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
            raise ImageError(
                f"pictures of different sizes ({listed}) cannot be one batch: make them equal, or pass them singly."
            )
        batch = np.stack(arrays)  # (B, H, W, 3) uint8
        out = np.empty((len(arrays), 3, *batch.shape[1:3]), np.float32)
        for channel, table in enumerate(self._table()):
            np.take(table, batch[..., channel], out=out[:, channel], mode="clip")  # bytes never leave the table
        return torch.from_numpy(out)

    def view(self, image: Image.Image) -> Image.Image:
        """What the model sees of a picture: resized and cropped, in colours that a person can look at."""
        return Image.fromarray(self._resized(image))

    def _resized(self, image: Image.Image) -> np.ndarray:
        """(H, W, 3) uint8 after resize and crop."""
        if image.mode != "RGB":
            image = open_image(image)
        if self.size is not None:
            height, width = self.size if isinstance(self.size, tuple) else _shorter_edge(image.size, self.size)
            if width * height > MAX_PIXELS:
                raise ImageError(
                    f"a picture of {image.width} x {image.height} pixels would become {width:,} x {height:,} here, "
                    f"more than {MAX_PIXELS:,} pixels: crop it first."
                )
            image = image.resize((width, height), resample=Image.Resampling(self.resample))
        array = np.asarray(image)
        return array if self.crop is None else _center_crop(array, self.crop)

    def _table(self) -> np.ndarray:
        """(3, 256) float32: what each byte becomes. The arithmetic is done once, in transformers' order and types."""
        values = np.arange(256, dtype=np.float64) * (1 if self.scale is None else self.scale)
        table = np.broadcast_to(values.astype(np.float32), (3, 256))
        if self.mean is not None and self.std is not None:
            mean, std = (np.array(v, np.float32)[:, None] for v in (self.mean, self.std))
            table = (table - mean) / std
        return table


def _shorter_edge(size: tuple[int, int], edge: int) -> tuple[int, int]:
    """(height, width) with the shorter one made `edge`, the longer one rounded down (transformers, torchvision)."""
    width, height = size
    longer = int(edge * max(size) / min(size))
    return (longer, edge) if width <= height else (edge, longer)


def _center_crop(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) -> (h, w, 3) from the middle, black outside the picture; odd differences round as in transformers."""
    height, width = array.shape[:2]
    padded = (max(height, size[0]), max(width, size[1]))
    if padded != (height, width):
        canvas = np.zeros((*padded, 3), array.dtype)
        top, left = -(-(padded[0] - height) // 2), -(-(padded[1] - width) // 2)
        canvas[top : top + height, left : left + width] = array
        array = canvas
        top += (height - size[0]) // 2
        left += (width - size[1]) // 2
    else:
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return array[top : top + size[0], left : left + size[1]]


def _flag(key: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise CheckpointError(f"{key} {value!r} is neither true nor false: correct the preprocessor_config.json.")


def _pixels(key: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise CheckpointError(f"{key} {value!r} is no size: use a whole number of pixels, at least 1.")


def _size(key: str, value: Any, int_is_shortest_edge: bool) -> tuple[int, int] | int:
    if isinstance(value, Mapping) and set(value) == {"height", "width"}:
        return _pixels(key, value["height"]), _pixels(key, value["width"])
    if isinstance(value, Mapping) and set(value) == {"shortest_edge"}:
        return _pixels(key, value["shortest_edge"])
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return _pixels(key, value[0]), _pixels(key, value[1])
    if isinstance(value, Mapping) or not isinstance(value, int):
        raise CheckpointError(f"{key} {value!r} is not understood: give a number, height and width, or shortest_edge.")
    edge = _pixels(key, value)
    return edge if int_is_shortest_edge else (edge, edge)


def _number(key: str, value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0:
        return float(value)
    raise CheckpointError(f"{key} {value!r} is not a positive number: correct the preprocessing configuration.")


def _triple(key: str, value: Any, nonzero: bool = False) -> tuple[float, float, float]:
    """One number for all channels, or three."""
    values = [value] * 3 if isinstance(value, (int, float)) else value
    good = isinstance(values, (list, tuple)) and len(values) == 3
    if good and all(isinstance(v, (int, float)) and math.isfinite(v) and not (nonzero and v == 0) for v in values):
        return float(values[0]), float(values[1]), float(values[2])
    raise CheckpointError(f"{key} {value!r} is not understood: give three {'non-zero ' if nonzero else ''}numbers.")
