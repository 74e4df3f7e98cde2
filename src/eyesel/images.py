"""Pictures in and out: safe decoding, the one preprocessing that travels with the weights, files with metadata.

Everything that reads or writes a picture goes through here, so that training, evaluation, the commands and the server
see the same pixels. The reference is Pillow: the filters, and what transformers' PIL processors make of them, to the
last bit.
"""

import glob
import io
import json
import math
import os
import re
import secrets
import threading
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from eyesel.errors import CheckpointError, ImageError, OutputError

MAX_PIXELS = 178_956_970  # about 13,377 x 13,377: where Pillow itself stops, half a gigabyte of RGB

# Only formats that Pillow decodes by itself: EPS, for one, would start Ghostscript. Pillow tries them in this order.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "ICO", "TGA", "AVIF")
READABLE = frozenset(
    f".{suffix}"
    for suffixes in ("png apng jpg jpeg jpe jfif mpo gif bmp ppm pgm pbm pnm", "webp tif tiff jp2 ico tga avif")
    for suffix in suffixes.split()
)
WRITABLE = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

# ----------------------------------------------------------------------------------------------------
# Opening
# ----------------------------------------------------------------------------------------------------

_quiet_lock = threading.Lock()  # warnings.catch_warnings changes the whole process: one thread at a time


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's remarks about odd headers away from the user, who gets a picture or an error."""
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_image(source: Any) -> Image.Image:
    """The picture in `source` as an upright PIL image of mode RGB, 8 bits a channel, without file or metadata attached.

    `source` is a path, bytes, a binary file object, a PIL image, a numpy array or a torch tensor: (H, W), (H, W, C)
    or (C, H, W) with C = 1, 3 or 4, either uint8, uint16, bool or floats from 0 to 1. Where both ends of a shape
    could be channels, arrays are (H, W, C) and tensors (C, H, W). EXIF rotation is applied, of an animation the first
    frame is taken, transparency is laid over white (as transformers 5 does), 16-bit grey is scaled to 8 bits, and
    CMYK is converted as Pillow does, without colour profiles.

    Raises `ImageError` for anything else, and for pictures of more than `MAX_PIXELS` pixels before they are decoded.
    """
    if isinstance(source, Image.Image):
        return _finish(source, "the PIL image")
    if isinstance(source, Tensor):
        tensor = source.detach().cpu()
        array = tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
        return _finish(_from_array(array, channels_first=True), "the tensor")
    if isinstance(source, np.ndarray):
        return _finish(_from_array(source, channels_first=False), "the array")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), f"the {len(source)} bytes given")
    if isinstance(source, (str, os.PathLike)):
        return _open_file(os.fspath(source))
    if hasattr(source, "read"):
        data = source.read()
        if isinstance(data, bytes):
            return _decode(io.BytesIO(data), str(getattr(source, "name", "the file object")))
        raise ImageError(f"the file object gives {type(data).__name__}, not bytes: open it in binary mode ('rb').")
    raise ImageError(
        f"a {type(source).__name__} is no picture: give a path, bytes, a file, a PIL image, an array or a tensor."
    )


def _open_file(name: str) -> Image.Image:
    _refuse_address(name)
    try:
        with Path(name).open("rb") as file:
            return _decode(file, name)
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder: give one of the pictures in it.") from None
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist: check the path.") from None
    except (OSError, ValueError) as error:  # no permission, a name that is too long or holds a null character
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name[:200]!r} cannot be opened ({reason}): check the path and its permissions.") from None


def _refuse_address(name: str) -> None:
    if re.match(r"https?://", name, re.IGNORECASE):
        raise ImageError(f"{name} is a web address, which eyesel does not fetch: download it and give the file.")


def _decode(file: IO[bytes], name: str) -> Image.Image:
    if not file.read(1):
        raise ImageError(f"{name} is empty (0 bytes): save or download the picture again.")
    try:
        with _quiet():
            image = Image.open(file, formats=FORMATS)
    except (UnidentifiedImageError, KeyError):  # KeyError: this Pillow was built without one of the formats
        raise ImageError(
            f"{name} is not a picture that eyesel can read: use PNG, JPEG, WebP, GIF, BMP or TIFF."
        ) from None
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        raise _too_large(name, f"{int(pixels[0]):,} pixels" if pixels else "too many pixels") from None
    except Exception as error:  # whatever a decoder makes of hostile bytes
        raise _damaged(name, error) from error
    return _finish(image, name)


def _finish(image: Image.Image, name: str) -> Image.Image:
    """Decode, convert to RGB, turn upright."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width:,} x {height:,} pixels")
    if width * height == 0:
        raise ImageError(f"{name} is {width} x {height} pixels: a picture has at least one.")
    try:
        image.load()
        rgb = _to_rgb(image, name)
    except ImageError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error
    turn = _ROTATIONS.get(_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def _too_large(name: str, size: str) -> ImageError:
    return ImageError(f"{name} has {size}, more than the {MAX_PIXELS:,} that eyesel decodes: make it smaller first.")


def _damaged(name: str, error: Exception) -> ImageError:
    return ImageError(f"{name} is damaged or cut short ({error or type(error).__name__}): save or download it again.")


_ROTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image) -> Any:
    try:
        with _quiet():
            return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # an EXIF block that cannot be parsed says nothing about rotation
        return None


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """A new RGB image of the same orientation."""
    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;16"):
        grey = _pillow_numbers(np.asarray(image), name)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    rgb = image.copy() if image.mode == "RGB" else image.convert("RGB")
    rgb.info = {}
    return rgb


def _pillow_numbers(grey: np.ndarray, name: str) -> np.ndarray:
    """Grey values of Pillow's wide modes as uint8: I;16 has 16 bits, I and F have 8 where those suffice, F also 0
    to 1.
    """
    if grey.dtype.itemsize == 2:
        return _eight_bits(grey.astype(np.uint16))
    low, high = float(grey.min()), float(grey.max())
    if not (low >= 0 and high <= 65535):
        raise ImageError(f"{name} has grey values from {low:g} to {high:g}: scale them to 0..255 or 0..65535 first.")
    if grey.dtype.kind == "f" and high <= 1:
        return _eight_bits(grey)
    return grey.astype(np.uint8) if high <= 255 else _eight_bits(grey.astype(np.uint16))


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """uint8, uint16, bool or floats in [0, 1] as uint8, rounded to nearest."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if values.dtype.kind == "f":
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        if not (low >= -1e-4 and high <= 1 + 1e-4):  # also refuses NaN
            raise ImageError(
                f"a picture of floats must lie in 0..1, and this one goes from {low:g} to {high:g}: rescale it."
            )
        return (values.clip(0, 1) * 255).round().astype(np.uint8)
    raise ImageError(f"a picture of {values.dtype} is not understood: use uint8, uint16, bool, or floats from 0 to 1.")


def _from_array(array: np.ndarray, channels_first: bool) -> Image.Image:
    channels = (1, 3, 4)
    pixels = array
    if array.ndim == 3:
        first, last = array.shape[0] in channels, array.shape[-1] in channels
        if first and (channels_first or not last):
            pixels = np.moveaxis(array, 0, -1)
        if pixels.shape[-1] == 1:
            pixels = pixels[..., 0]
    if pixels.size == 0 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in channels)):
        shape = tuple(array.shape)
        raise ImageError(
            f"an array of shape {shape} is no picture: use (H, W), (H, W, C) or (C, H, W) with C = 1, 3 or 4."
        )
    return Image.fromarray(np.ascontiguousarray(_eight_bits(pixels)))


def find_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The pictures that files, folders and globs stand for, in the order given, each once.

    A file is taken as it is; a folder stands for the pictures in it and below it and a glob (`*`, `?`, `[`, `**`) for
    those that it matches, both sorted, by known suffix, hidden ones left out. Raises `ImageError` for a name that
    stands for nothing.
    """
    found: dict[Path, None] = {}
    for name in [paths] if isinstance(paths, (str, Path)) else paths:
        path = Path(name).expanduser()
        if path.is_file():
            found[path] = None
            continue
        if path.is_dir():
            inside = [file for file in path.rglob("*") if not _hidden(file.relative_to(path))]
        elif glob.has_magic(str(path)):
            inside = [Path(file) for file in glob.glob(str(path), recursive=True)]  # noqa: PTH207 (Path.glob refuses absolute patterns)
        else:
            _refuse_address(str(name))
            raise ImageError(f"{name} does not exist: check the path.")
        pictures = sorted(file for file in inside if file.suffix.lower() in READABLE and file.is_file())
        if not pictures:
            raise ImageError(f"there is no picture in {name}: give a file, folder or glob of {_list(READABLE)} files.")
        found.update(dict.fromkeys(pictures))
    if not found:
        raise ImageError("no picture was given: name a file, a folder or a glob.")
    return list(found)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _list(suffixes: Iterable[str]) -> str:
    return ", ".join(sorted(suffixes))


# ----------------------------------------------------------------------------------------------------
# Preprocessing for the classifier
# ----------------------------------------------------------------------------------------------------

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


# ----------------------------------------------------------------------------------------------------
# Pictures for the autoencoder
# ----------------------------------------------------------------------------------------------------


def to_pil(x: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) floats in [-1, 1] -> PIL images, clamped, rounded half to even (diffusers' VaeImageProcessor)."""
    x = (x.detach() * 0.5 + 0.5).clamp(0, 1)
    pixels = (x.cpu().permute(0, 2, 3, 1).float().numpy() * 255).round().astype(np.uint8)  # (B, H, W, 3)
    return [Image.fromarray(picture) for picture in pixels]


def from_pil(images: Sequence[Image.Image]) -> Tensor:
    """PIL images of one size -> (B, 3, H, W) float32 in [-1, 1] (diffusers' VaeImageProcessor, without its resize)."""
    arrays = [np.asarray(image if image.mode == "RGB" else open_image(image)) for image in images]
    if len({array.shape for array in arrays}) != 1:
        listed = ", ".join(sorted({f"{image.width}x{image.height}" for image in images})) or "none"
        raise ImageError(f"a batch needs pictures of one size, and these are {listed}: resize them first.")
    pixels = np.stack(arrays).astype(np.float32) / 255.0
    return 2.0 * torch.from_numpy(pixels.transpose(0, 3, 1, 2)) - 1.0


# ----------------------------------------------------------------------------------------------------
# Saving
# ----------------------------------------------------------------------------------------------------

_UNICODE = b"UNICODE\0"  # how EXIF marks a UserComment in UTF-16


def check_writable(path: str | Path, suffixes: Collection[str] | None = None) -> Path:
    """`path`, if a file with one of `suffixes` (default: any) can be written there, else `OutputError`.

    For use before long work starts; leaves nothing behind.
    """
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            raise OutputError(f"{path} is a folder: name a file in it.")
        if suffixes is not None and path.suffix.lower() not in suffixes:
            raise OutputError(
                f"{path} has the suffix {path.suffix!r}, which cannot be written here: use {_list(suffixes)}."
            )
        if not path.parent.is_dir():
            raise OutputError(
                f"the folder {path.parent} does not exist: create it or choose another place for {path.name}."
            )
        if path.exists() and not os.access(path, os.W_OK):
            raise OutputError(f"{path} is write-protected: choose another name.")
        trial = _beside(path)
        trial.touch(exist_ok=False)
        trial.unlink()
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from None
    return path


def save_image(image: Image.Image, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a picture as PNG, JPEG or WebP (quality 95) by suffix, all of it or nothing.

    PNG keeps the metadata as text chunks, one a key; JPEG and WebP keep it as JSON in the EXIF user comment;
    `read_metadata` gives it back. The file is written under another name in the same folder and renamed, so no reader
    ever sees half a picture. Raises `OutputError`.
    """
    path = check_writable(path, WRITABLE)
    options: dict[str, Any] = {}
    if path.suffix.lower() != ".png":
        options["quality"] = 95
        image = image.convert("RGB") if image.mode not in ("RGB", "L") else image
    trial = _beside(path)
    try:
        if metadata and path.suffix.lower() == ".png":
            options["pnginfo"] = PngImagePlugin.PngInfo()
            for key, value in metadata.items():
                options["pnginfo"].add_text(key, value)  # tEXt, or iTXt where Latin-1 is not enough
        elif metadata:
            exif = Image.Exif()
            comment = _UNICODE + json.dumps(dict(metadata), ensure_ascii=False).encode("utf-16-be")
            exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
            options["exif"] = exif
        with trial.open("xb") as file:
            image.save(file, format=WRITABLE[path.suffix.lower()], **options)
        trial.replace(path)
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from None
    finally:
        trial.unlink(missing_ok=True)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The texts that `save_image` (or another program) stored in a picture: PNG text chunks, or the EXIF user comment.

    A comment that is not eyesel's is given as "parameters", the name under which AUTOMATIC1111 keeps it in PNG files.
    """
    name = str(path)
    try:
        with _quiet(), Image.open(Path(path).expanduser(), formats=FORMATS) as image:
            if isinstance(image, PngImagePlugin.PngImageFile):
                return {key: str(value) for key, value in image.text.items()}  # reads the chunks after the pixels, too
            comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist: check the path.") from None
    except Exception as error:
        raise _damaged(name, error) from error
    return _parse_comment(comment)


def _parse_comment(comment: bytes | str) -> dict[str, str]:
    if isinstance(comment, bytes):
        unicode = comment.startswith(_UNICODE)
        comment = comment[8:].decode("utf-16-be" if unicode else "utf-8", errors="replace")
    try:
        texts = json.loads(comment)
    except ValueError:
        return {"parameters": comment} if comment.strip("\0 ") else {}
    return {key: str(value) for key, value in texts.items()} if isinstance(texts, dict) else {"parameters": comment}


def _beside(path: Path) -> Path:
    """A new name in the same folder, and so on the same file system."""
    return path.with_name(f".eyesel-{secrets.token_hex(8)}.tmp")


def _unwritable(path: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"{path} cannot be written ({reason}): choose another place.")
