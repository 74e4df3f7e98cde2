"""Safe decoding: whatever a picture comes as, an upright RGB image or one sentence."""

import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from eyesel.errors import ImageError

Mode = Literal["RGB", "RGBA"]

MAX_PIXELS = 178_956_970  # about 13,377 x 13,377: where Pillow itself stops, half a gigabyte of RGB

# Only formats that Pillow decodes by itself: EPS, for one, would start Ghostscript. Pillow tries them in this order.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "ICO", "TGA", "AVIF")

_quiet_lock = threading.Lock()  # warnings.catch_warnings changes the whole process: one thread at a time


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Pillow's remarks about odd headers away from the user, who gets a picture or an error."""
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_image(source: Any, mode: Mode = "RGB", at_least: int | None = None) -> Image.Image:
    """The picture in `source` as an upright PIL image of 8 bits a channel, without file or metadata attached.

    `source` is a path, bytes, a binary file object, a PIL image, a numpy array or a torch tensor: (H, W), (H, W, C)
    or (C, H, W) with C = 1, 3 or 4, either uint8, uint16, bool or floats from 0 to 1. Where both ends of a shape
    could be channels, arrays are (H, W, C) and tensors (C, H, W). EXIF rotation is applied, of an animation the first
    frame is taken, transparency is laid over white (as transformers 5 does) or, in mode RGBA, kept, 16-bit grey is
    scaled to 8 bits, and CMYK is converted as Pillow does, without colour profiles.

    With `at_least`, JPEGs are decoded at 1/2, 1/4 or 1/8 of their size if that divides both sides, and leaves them that
    many pixels: faster, and no longer the same pixels.

    Raises `ImageError` for anything else, and for pictures of more than `MAX_PIXELS` pixels before they are decoded.
    """
    if isinstance(source, Image.Image):
        return _finish(source, "the PIL image", mode)
    if isinstance(source, Tensor):
        tensor = source.detach().cpu()
        array = tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
        return _finish(_from_array(array, channels_first=True), "the tensor", mode)
    if isinstance(source, np.ndarray):
        return _finish(_from_array(source, channels_first=False), "the array", mode)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), f"the {len(source)} bytes given", mode, at_least)
    if isinstance(source, (str, os.PathLike)):
        return _open_file(os.fspath(source), mode, at_least)
    if hasattr(source, "read"):
        data = source.read()
        if isinstance(data, bytes):
            return _decode(io.BytesIO(data), str(getattr(source, "name", "the file object")), mode, at_least)
        raise ImageError(f"the file object gives {type(data).__name__}, not bytes: open it in binary mode ('rb').")
    raise ImageError(
        f"a {type(source).__name__} is no picture: give a path, bytes, a file, a PIL image, an array or a tensor."
    )


def _open_file(name: str, mode: Mode, at_least: int | None) -> Image.Image:
    with picture_file(name) as file:
        return _decode(file, name, mode, at_least)


@contextmanager
def picture_file(name: str) -> Iterator[IO[bytes]]:
    """The file of that name, or `ImageError`."""
    refuse_address(name)
    try:
        path = Path(name).expanduser()
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ImageError(f"{name} is a pipe or a device, not a picture file: save it to a file first.")
        with path.open("rb") as file:
            yield file
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder: give one of the pictures in it.") from None
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist: check the path.") from None
    except (OSError, ValueError) as error:  # no permission, a name that is too long or holds a null character
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name[:200]!r} cannot be opened ({reason}): check the path and its permissions.") from None


def refuse_address(name: str) -> None:
    if re.match(r"https?://", name, re.IGNORECASE):
        raise ImageError(f"{name} is a web address, which eyesel does not fetch: download it and give the file.")


def _decode(file: IO[bytes], name: str, mode: Mode, at_least: int | None) -> Image.Image:
    return _finish(identified(file, name), name, mode, at_least)


def identified(file: IO[bytes], name: str) -> Image.Image:
    """The picture in a file, whose pixels have not been decoded yet."""
    if not file.read(1):
        raise ImageError(f"{name} is empty (0 bytes): save or download the picture again.")
    try:
        with quiet():
            return Image.open(file, formats=FORMATS)
    except (UnidentifiedImageError, KeyError):  # KeyError: this Pillow was built without one of the formats
        raise ImageError(
            f"{name} is not a picture that eyesel can read: use PNG, JPEG, WebP, GIF, BMP or TIFF."
        ) from None
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        raise _too_large(name, f"{int(pixels[0]):,} pixels" if pixels else "too many pixels") from None
    except Exception as error:  # whatever a decoder makes of hostile bytes
        raise damaged(name, error) from error


def _finish(image: Image.Image, name: str, mode: Mode, at_least: int | None = None) -> Image.Image:
    """Decode, convert, turn upright."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width:,} x {height:,} pixels")
    if width * height == 0:
        raise ImageError(f"{name} is {width} x {height} pixels: a picture has at least one.")
    try:
        if at_least is not None:
            image.draft(None, _drafted(image.size, at_least))  # nothing, unless it is a JPEG
        image.load()
        converted = _converted(image, name, mode)
    except ImageError:
        raise
    except Exception as error:
        raise damaged(name, error) from error
    turn = _ROTATIONS.get(_orientation(image))
    return converted if turn is None else converted.transpose(turn)


def _drafted(size: tuple[int, int], at_least: int) -> tuple[int, int]:
    """The smallest size that a draft may have. Of sides that do not divide, it would show a part of a pixel more."""
    shares = [n for n in (8, 4, 2) if not any(side % n for side in size) and min(size) >= n * at_least]
    return (size[0] // shares[0], size[1] // shares[0]) if shares else size


def _too_large(name: str, size: str) -> ImageError:
    return ImageError(f"{name} has {size}, more than the {MAX_PIXELS:,} that eyesel decodes: make it smaller first.")


def damaged(name: str, error: Exception) -> ImageError:
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
        with quiet():
            return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # an EXIF block that cannot be parsed says nothing about rotation
        return None


def _converted(image: Image.Image, name: str, mode: Mode) -> Image.Image:
    """A new image of that mode and of the same orientation."""
    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;16"):
        grey = _pillow_numbers(np.asarray(image), name)
        return Image.fromarray(grey).convert(mode)
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        if mode == "RGB":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    converted = image.copy() if image.mode == mode else image.convert(mode)
    converted.info = {}
    return converted


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
