"""The one preprocessing of a classifier, which travels with its weights.

The reference is Pillow: its filters, and what transformers' PIL processors make of them, to the last bit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eyesel.errors import ImageError
from eyesel.images import configs
from eyesel.images.decode import MAX_PIXELS, open_image

_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ImageTransform:
    """From PIL images to the tensor that a classifier reads: resize, centre crop, rescale, normalise, in this order.

    `size` is (height, width), or one number for the shorter edge with the shape kept, or None to leave the size
    alone; `crop` is (height, width) or None; `resample` is Pillow's filter code; `scale` multiplies the bytes; `mean`
    and `std` are in scaled units. The arithmetic is that of transformers' PIL image processors (`PilBackend` in
    `image_processing_backends.py`); `crop_to_even` puts the crop where torchvision and so timm have it, rounding half a
    pixel to an even number and not down.
    """

    size: tuple[int, int] | int | None = (224, 224)
    crop: tuple[int, int] | None = None
    resample: int = 2
    scale: float | None = 1 / 255
    mean: tuple[float, float, float] | None = _HALF
    std: tuple[float, float, float] | None = _HALF
    crop_to_even: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ImageTransform":
        """Read a `preprocessor_config.json` of any age, or a timm `config.json`; raises `CheckpointError` naming
        the key.
        """
        return cls(**configs.read(config))

    def to_config(self) -> dict[str, Any]:
        """A `preprocessor_config.json` that transformers and `from_config` read back as this transform."""
        return configs.for_transformers(self)

    def to_timm(self) -> dict[str, Any]:
        """A `pretrained_cfg` that timm and `from_config` read back as this transform; `SettingError` where timm cannot
        do it.
        """
        return configs.for_timm(self)

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(height, width) of what comes out, or None where it follows the picture."""
        return self.crop or (self.size if isinstance(self.size, tuple) else None)

    @property
    def longest_input(self) -> int | None:
        """Pixels of the longer side that pictures are resized to, or of the shorter one if `size` is that."""
        return max(self.size) if isinstance(self.size, tuple) else self.size

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
        return array if self.crop is None else _center_crop(array, self.crop, self.crop_to_even)

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


def _center_crop(array: np.ndarray, size: tuple[int, int], to_even: bool) -> np.ndarray:
    """(H, W, 3) -> (h, w, 3) from the middle, black outside the picture. Halves of a pixel: transformers pads above and
    crops below them, torchvision pads below and crops at the even neighbour.
    """
    height, width = array.shape[:2]
    padded = (max(height, size[0]), max(width, size[1]))
    if padded != (height, width):
        canvas = np.zeros((*padded, 3), array.dtype)
        top, left = ((padded[i] - array.shape[i] + (not to_even)) // 2 for i in (0, 1))
        canvas[top : top + height, left : left + width] = array
        array = canvas
    halved = round if to_even else math.floor
    top, left = (halved((padded[i] - size[i]) / 2) for i in (0, 1))
    return array[top : top + size[0], left : left + size[1]]
