"""What a training picture is changed by, so that no two epochs are the same: on PIL images, and on batches.

Crops are those of Inception (Szegedy et al. 2014), as torchvision's RandomResizedCrop draws them; RandAugment is that
of Cubuk et al. 2019 with torchvision's operations and strengths; mixup is Zhang et al. 2017 and CutMix Yun et al. 2019.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from eyesel.errors import SettingError
from eyesel.fields import check_fields

_RATIOS = (3 / 4, 4 / 3)
_LEVELS = 30  # of RandAugment


@dataclass(frozen=True)
class Augmentation:
    """`crop` is the smallest share of the picture that a crop keeps, 1 for the whole picture always; `rand_augment` the
    number of operations, of `rand_magnitude` out of 30; `mixup` and `cutmix` the α of their Beta distribution, 0 for
    none; with both, each batch has one of them.
    """

    crop: float = 0.08
    flip: bool = True
    rand_augment: Annotated[int, range(11)] = 0
    rand_magnitude: Annotated[int, range(_LEVELS + 1)] = 9
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, SettingError)
        if not 0 < self.crop <= 1:
            raise SettingError(f"crop is {self.crop:g}; it is a share of the picture, more than 0 and at most 1.")
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise SettingError(f"{name} is {getattr(self, name):g}; it must be 0 or more.")

    @property
    def smallest_side(self) -> float:
        """Of a crop, as a share of the picture's: at least of its shorter one."""
        return math.sqrt(self.crop * _RATIOS[0])

    def picture(
        self, image: Image.Image, size: tuple[int, int], resample: int, chance: np.random.Generator
    ) -> Image.Image:
        """One picture for a network that reads (height, width) pixels."""
        if self.crop < 1:
            box = crop_box(image.size, self.crop, chance)
            image = image.resize((size[1], size[0]), Image.Resampling(resample), box)
        if self.flip and chance.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for _ in range(self.rand_augment):
            image = rand_augment(image, self.rand_magnitude, chance)
        return image

    def batch(self, pixels: Tensor, labels: Tensor, classes: int, chance: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) and labels (B,), mixed with the batch in another order: labels (B, classes) then."""
        kinds = [mixed for mixed, alpha in ((mixup, self.mixup), (cutmix, self.cutmix)) if alpha]
        if not kinds or len(labels) < 2:
            return pixels, labels
        mixed = kinds[chance.integers(len(kinds))]
        alpha = self.mixup if mixed is mixup else self.cutmix
        order = torch.from_numpy(chance.permutation(len(labels)))
        pixels, share = mixed(pixels, pixels[order], float(chance.beta(alpha, alpha)), chance)
        sure = torch.nn.functional.one_hot(labels, classes).to(pixels.dtype)
        return pixels, share * sure + (1 - share) * sure[order]


def crop_box(size: tuple[int, int], least: float, chance: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a part of the picture of `least` to all of its area, 3:4 to 4:3 in shape."""
    width, height = size
    for _ in range(10):
        area = width * height * chance.uniform(least, 1)
        ratio = math.exp(chance.uniform(math.log(_RATIOS[0]), math.log(_RATIOS[1])))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(chance.integers(width - across + 1)), int(chance.integers(height - down + 1))
            return left, top, left + across, top + down
    across = min(width, round(height * _RATIOS[1]))  # very long pictures: the middle, as near to the shapes as it goes
    down = min(height, round(width / _RATIOS[0]))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def mixup(first: Tensor, second: Tensor, share: float, chance: np.random.Generator) -> tuple[Tensor, float]:
    return share * first + (1 - share) * second, share


def cutmix(first: Tensor, second: Tensor, share: float, chance: np.random.Generator) -> tuple[Tensor, float]:
    """A rectangle of about 1 - share of the area from the second; the share that is left is counted by pixels."""
    height, width = first.shape[-2:]
    side = math.sqrt(1 - share) / 2
    y, x = chance.integers(height), chance.integers(width)
    top, bottom = max(round(y - side * height), 0), min(round(y + side * height), height)
    left, right = max(round(x - side * width), 0), min(round(x + side * width), width)
    mixed = first.clone()
    mixed[..., top:bottom, left:right] = second[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


Operation = Callable[[Image.Image, float], Image.Image]


def _affine(*coefficients: Callable[[Image.Image, float], float]) -> Operation:
    return lambda image, amount: image.transform(
        image.size, Image.Transform.AFFINE, tuple(each(image, amount) for each in coefficients), fillcolor=(0, 0, 0)
    )


def _constant(value: float) -> Callable[[Image.Image, float], float]:
    return lambda image, amount: value


def _amount(image: Image.Image, amount: float) -> float:
    return amount


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, amount: kind(image).enhance(1 + amount)


_0, _1 = _constant(0), _constant(1)
# Each with its strongest amount, and whether the amount goes both ways.
_OPERATIONS: tuple[tuple[Operation, float, bool], ...] = (
    (lambda image, amount: image, 0, False),
    (_affine(_1, _amount, _0, _0, _1, _0), 0.3, True),
    (_affine(_1, _0, _0, _amount, _1, _0), 0.3, True),
    (_affine(_1, _0, lambda image, amount: amount * image.width, _0, _1, _0), 150 / 331, True),
    (_affine(_1, _0, _0, _0, _1, lambda image, amount: amount * image.height), 150 / 331, True),
    (lambda image, amount: image.rotate(amount), 30, True),
    (_enhanced(ImageEnhance.Brightness), 0.9, True),
    (_enhanced(ImageEnhance.Color), 0.9, True),
    (_enhanced(ImageEnhance.Contrast), 0.9, True),
    (_enhanced(ImageEnhance.Sharpness), 0.9, True),
    (lambda image, amount: ImageOps.posterize(image, 8 - round(amount)), 4, False),
    (lambda image, amount: ImageOps.solarize(image, round(255 - amount)), 255, False),
    (lambda image, amount: ImageOps.autocontrast(image), 0, False),
    (lambda image, amount: ImageOps.equalize(image), 0, False),
)


def rand_augment(image: Image.Image, magnitude: int, chance: np.random.Generator) -> Image.Image:
    """One operation of the fourteen, at `magnitude` out of 30."""
    operation, strongest, both = _OPERATIONS[chance.integers(len(_OPERATIONS))]
    amount = strongest * magnitude / _LEVELS
    return operation(image, -amount if both and chance.random() < 0.5 else amount)
