"""Labelled pictures as the batches of a classifier. Validation sees them as inference does, by the same transform."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from eyesel.images import ImageTransform, ahead
from eyesel.stream import DRAFT
from eyesel.train.augment import Augmentation
from eyesel.train.draws import Draw, generator
from eyesel.train.pictures import WORKERS
from eyesel.train.splits import Split

_PICTURE, _BATCH = 1, 2  # keys of `generator`


@dataclass(frozen=True)
class Row:
    """A picture as the network sees it: resized and cropped, not normalised yet."""

    view: Image.Image
    label: int
    draw: Draw | None = None


def needed_side(transform: ImageTransform, augmentation: Augmentation, size: tuple[int, int]) -> int | None:
    """Pixels that the sides of a training picture need, for a network that reads (height, width): those of a draft, and
    so many that the smallest crop has as many as are read. None if pictures are read at their own size.
    """
    if augmentation.crop == 1:
        return None if transform.longest_input is None else DRAFT * transform.longest_input
    return math.ceil(max(DRAFT, 1 / augmentation.smallest_side) * max(size))


class Augmented(Dataset[Row]):
    """The training split, indexed by `Draw`s."""

    def __init__(
        self, split: Split, transform: ImageTransform, size: tuple[int, int], augmentation: Augmentation, seed: int
    ) -> None:
        """`size` is the (height, width) that the network reads."""
        self.split, self.augmentation = split, augmentation
        self._transform, self._size, self._seed = transform, size, seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, draw: Draw) -> Row:
        chance = generator(self._seed, _PICTURE, *draw)
        image = self.split.pictures[draw.number]
        image = self.augmentation.picture(image, self._size, self._transform.resample, chance)
        view = image if self.augmentation.crop < 1 else self._transform.view(image)
        return Row(view, self.split.labels[draw.number], draw)


class Seen(Dataset[Row]):
    """A split as inference sees it, indexed by numbers. It is always the same, so up to `keep` bytes of it are held."""

    def __init__(self, split: Split, transform: ImageTransform, keep: int) -> None:
        self.split, self._transform = split, transform
        size = transform.output_size
        held = 0 if size is None else min(keep // (4 * size[0] * size[1]), len(split))
        self._held = list(ahead(range(held), self._view, WORKERS, 4 * WORKERS))

    @property
    def size(self) -> int:
        """Bytes that are held in memory."""
        return sum(4 * view.width * view.height for view in self._held)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, number: int) -> Row:
        view = self._held[number] if number < len(self._held) else self._view(number)
        return Row(view, self.split.labels[number])

    def _view(self, number: int) -> Image.Image:
        return self._transform.view(self.split.pictures[number])


class Collate:
    """Rows as pixel_values (B, 3, H, W) and labels (B,), or (B, classes) where pictures are mixed."""

    def __init__(self, transform: ImageTransform, augmentation: Augmentation, classes: int, seed: int) -> None:
        self._normalise = replace(transform, size=None, crop=None)
        self._augmentation, self._classes, self._seed = augmentation, classes, seed

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        pixels = self._normalise([row.view for row in rows])
        labels: Tensor = torch.tensor([row.label for row in rows])
        draw = rows[0].draw
        if draw is not None:
            chance = generator(self._seed, _BATCH, *draw)
            pixels, labels = self._augmentation.batch(pixels, labels, self._classes, chance)
        return {"pixel_values": pixels, "labels": labels}
