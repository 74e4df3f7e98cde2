"""Labelled pictures as the batches of a classifier. Validation sees them as inference does, by the same transform."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from eyesel.images import ImageTransform
from eyesel.train.augment import Augmentation
from eyesel.train.draws import Draw, generator
from eyesel.train.splits import Split

_PICTURE, _BATCH = 1, 2  # keys of `generator`


@dataclass(frozen=True)
class Row:
    image: Image.Image
    label: int
    draw: Draw | None


class LabelledPictures(Dataset[Row]):
    """A split; augmented where it is asked for a `Draw` and not for a number."""

    def __init__(
        self, split: Split, size: tuple[int, int], resample: int, augmentation: Augmentation, seed: int
    ) -> None:
        """`size` is the (height, width) that the network reads, `resample` Pillow's filter."""
        self.split, self.augmentation = split, augmentation
        self._size, self._resample, self._seed = size, resample, seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: Draw | int) -> Row:
        if not isinstance(key, Draw):
            return Row(self.split.pictures[key], self.split.labels[key], None)
        chance = generator(self._seed, _PICTURE, *key)
        image = self.split.pictures[key.number]
        image = self.augmentation.picture(image, self._size, self._resample, chance)
        return Row(image, self.split.labels[key.number], key)


class Collate:
    """Rows as pixel_values (B, 3, H, W) and labels (B,), or (B, classes) where pictures are mixed."""

    def __init__(self, transform: ImageTransform, augmentation: Augmentation, classes: int, seed: int) -> None:
        self._transform, self._augmentation, self._classes, self._seed = transform, augmentation, classes, seed
        # A crop by chance takes the place of the one in the middle.
        whole = transform if transform.crop is None else replace(transform, size=transform.crop, crop=None)
        self._training = whole if augmentation.crop < 1 else transform

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        draw = rows[0].draw
        labels: Tensor = torch.tensor([row.label for row in rows])
        images = [row.image for row in rows]
        if draw is None:
            return {"pixel_values": self._transform(images), "labels": labels}
        pixels, labels = self._augmentation.batch(
            self._training(images), labels, self._classes, generator(self._seed, _BATCH, *draw)
        )
        return {"pixel_values": pixels, "labels": labels}
