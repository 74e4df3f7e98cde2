"""Preprocessing in other libraries' words: transformers' preprocessor_config.json of any age, timm's pretrained_cfg."""

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eyesel.errors import CheckpointError, SettingError
from eyesel.images.decode import MAX_PIXELS

if TYPE_CHECKING:
    from eyesel.images.transform import ImageTransform

_HALF = (0.5, 0.5, 0.5)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # Pillow's codes

# What transformers' processor classes fill in for keys that a preprocessor_config.json leaves out.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {"size": 224, "resample": 2},
    "DeiT": {"size": 256, "do_center_crop": True},
    "Beit": {"size": 224},
    "Siglip": {"size": 224},
    "CLIP": {"size": {"shortest_edge": 224}, "do_center_crop": True, "image_mean": _CLIP_MEAN, "image_std": _CLIP_STD},
    "ConvNext": {"size": {"shortest_edge": 384}, "crop_pct": 0.875},
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
_INT_IS_SHORTEST_EDGE = ("CLIP", "Bit", "Siglip", "ConvNext")  # elsewhere "size": 224 means 224 x 224


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of an `ImageTransform`; raises `CheckpointError` naming the key."""
    if "pretrained_cfg" in config or "input_size" in config:
        return _read_timm(config.get("pretrained_cfg", config))
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "ViTImageProcessor")
    family = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", kind)
    if family not in _DEFAULTS:
        known = ", ".join(_DEFAULTS)
        raise CheckpointError(f"image_processor_type {kind!r} is not supported: eyesel reads those of {known}.")
    if config.get("do_pad"):
        raise CheckpointError(
            f"do_pad {config['do_pad']!r} is not supported: write it as do_center_crop and crop_size."
        )
    given = {key: value for key, value in config.items() if value is not None}
    values = {**_COMMON, **_DEFAULTS[family], **given}
    flag = {key: _flag(key, values[key]) for key in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")}
    size = _size("size", values["size"], family in _INT_IS_SHORTEST_EDGE) if flag["do_resize"] else None
    crop = _size("crop_size", values["crop_size"], False) if flag["do_center_crop"] else None
    if isinstance(crop, int):
        raise CheckpointError(f"crop_size {values['crop_size']!r} has no shape: give its height and width.")
    if family == "ConvNext" and flag["do_resize"]:
        size, crop = _convnext(size, crop, _number("crop_pct", values["crop_pct"]))
    elif "crop_pct" in given:
        warnings.warn(
            f"crop_pct {given['crop_pct']!r} means nothing to a {kind}, here as in transformers.", stacklevel=2
        )
    resample = values["resample"]
    if isinstance(resample, bool) or resample not in _FILTERS.values():
        raise CheckpointError(f"resample {resample!r} is unknown: use Pillow's filter code, 0 to 5.")
    return {
        "size": size,
        "crop": crop,
        "resample": int(resample),
        "scale": _number("rescale_factor", values["rescale_factor"]) if flag["do_rescale"] else None,
        "mean": _triple("image_mean", values["image_mean"]) if flag["do_normalize"] else None,
        "std": _triple("image_std", values["image_std"], nonzero=True) if flag["do_normalize"] else None,
    }


def _convnext(size: Any, crop: tuple[int, int] | None, crop_pct: float) -> tuple[Any, Any]:
    """Below 384 pixels the middle of a larger picture, from there on the whole of it, squeezed into a square."""
    if not isinstance(size, int) or crop is not None:
        raise CheckpointError("a ConvNextImageProcessor has a size of {'shortest_edge': ...} and no crop_size.")
    return (_before_crop(size, crop_pct), (size, size)) if size < 384 else ((size, size), None)


def _read_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """timm's evaluation: shorter edge to floor(size / crop_pct), or the picture squeezed into a square of it
    (crop_mode "squash"), then the middle.
    """
    crop_mode = config.get("crop_mode") or "center"
    if crop_mode not in ("center", "squash"):
        raise CheckpointError(f"crop_mode {crop_mode!r} is not supported: use 'center' or 'squash'.")
    interpolation = config.get("interpolation", "bicubic")
    if interpolation not in _FILTERS:
        raise CheckpointError(f"interpolation {interpolation!r} is unknown: use one of {', '.join(_FILTERS)}.")
    input_size = config.get("input_size", (3, 224, 224))
    square = isinstance(input_size, Sequence) and len(input_size) == 3 and input_size[1] == input_size[2]
    if not square and (crop_mode != "squash" or len(input_size) != 3):
        raise CheckpointError(f"input_size {input_size!r} is not supported: use three channels and a square.")
    height, width = (_pixels("input_size", value) for value in input_size[1:])
    crop_pct = _number("crop_pct", config.get("crop_pct", 0.875))
    scaled = _before_crop(height, crop_pct), _before_crop(width, crop_pct)
    return {
        "size": scaled if crop_mode == "squash" else scaled[0],
        "crop": None if crop_mode == "squash" and scaled == (height, width) else (height, width),
        "resample": _FILTERS[interpolation],
        "mean": _triple("mean", config.get("mean", IMAGENET_MEAN)),
        "std": _triple("std", config.get("std", IMAGENET_STD), nonzero=True),
        "crop_to_even": True,
    }


def _before_crop(side: int, crop_pct: float) -> int:
    scaled = side / crop_pct
    if not 1 <= scaled <= MAX_PIXELS:
        raise CheckpointError(f"crop_pct {crop_pct!r} of {side} pixels is no share: use a number such as 0.9.")
    return math.floor(scaled)


def for_transformers(transform: "ImageTransform") -> dict[str, Any]:
    """A preprocessor_config.json that every version of transformers reads back as this transform."""
    # Of transformers' classes only CLIP's reads a shortest edge and a crop in every version.
    plain = transform.crop is None and not isinstance(transform.size, int)
    size = transform.size or (224, 224)
    config: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor" if plain else "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": transform.size is not None,
        "size": {"shortest_edge": size} if isinstance(size, int) else dict(zip(("height", "width"), size, strict=True)),
        "resample": transform.resample,
        "do_center_crop": transform.crop is not None,
        "do_rescale": transform.scale is not None,
        "rescale_factor": 1 / 255 if transform.scale is None else transform.scale,
        "do_normalize": transform.mean is not None,
        "image_mean": list(transform.mean or _HALF),
        "image_std": list(transform.std or _HALF),
    }
    if transform.crop is not None:
        config["crop_size"] = {"height": transform.crop[0], "width": transform.crop[1]}
    return config


def for_timm(transform: "ImageTransform") -> dict[str, Any]:
    """A pretrained_cfg of timm; `SettingError` for what timm cannot do."""
    size, crop = transform.size, transform.crop or transform.size
    if size is None or isinstance(crop, int) or crop is None or (isinstance(size, int) and crop[0] != crop[1]):
        raise SettingError(
            f"timm cannot resize to {size} and cut {transform.crop} out of it: save the model in transformers' format."
        )
    scaled = (size, size) if isinstance(size, int) else size
    crop_pct = _share(crop[0], scaled[0])
    if math.floor(crop[1] / crop_pct) != scaled[1]:
        raise SettingError(
            f"timm cannot cut {crop} out of {scaled}, other shares of height and width: save the model in "
            "transformers' format."
        )
    unit = 255 * (1 if transform.scale is None else transform.scale)  # timm scales bytes to 0 to 1, always
    return {
        "input_size": [3, *crop],
        "interpolation": next(name for name, code in _FILTERS.items() if code == transform.resample),
        "crop_pct": crop_pct,
        "crop_mode": "center" if isinstance(size, int) else "squash",
        "mean": [value / unit for value in transform.mean or (0.0, 0.0, 0.0)],
        "std": [value / unit for value in transform.std or (1.0, 1.0, 1.0)],
    }


def _share(crop: int, size: int) -> float:
    """The crop_pct by which timm's floor(crop / crop_pct) is `size`."""
    share = crop / size
    return share if math.floor(crop / share) == size else math.nextafter(share, 0)


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
