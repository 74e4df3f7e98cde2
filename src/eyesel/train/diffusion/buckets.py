"""Aspect-ratio buckets, by the rules of kohya's sd-scripts (`library/model_util.py`, `library/train_util.py`).

Pictures of any proportions are trained on at about one area: each is scaled and cropped at its centre to the size, of a
few, that is nearest to its own proportions. What is in a batch has one size.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eyesel.errors import SettingError
from eyesel.train.draws import Draw, Shuffled, generator

Size = tuple[int, int]  # width, height in pixels


class Placed(NamedTuple):
    """How a picture gets its bucket's size: scaled to `scaled`, then cut to `size` from (left, top) on."""

    scaled: Size
    size: Size
    left: int
    top: int


@dataclass(frozen=True)
class Buckets:
    """Sizes of about resolution² pixels whose sides are multiples of `step` from `least` to `most`; with
    `square` that one alone. Without `upscale` small pictures keep their scale, and lose what is beyond a multiple.
    """

    resolution: int
    step: int
    least: int
    most: int
    upscale: bool = True
    square: bool = False

    def __post_init__(self) -> None:
        if self.resolution % self.step:
            below = max(self.resolution // self.step, 1) * self.step
            raise SettingError(
                f"resolution is {self.resolution}; it must be a multiple of {self.step}, such as {below}."
            )
        if not self.least <= self.resolution <= self.most:
            raise SettingError(
                f"buckets from {self.least} to {self.most} pixels do not hold the resolution {self.resolution}: "
                "change min_bucket or max_bucket."
            )

    @property
    def sizes(self) -> list[Size]:
        if self.square:
            return [(self.resolution, self.resolution)]
        area = self.resolution**2
        found = {(self.resolution, self.resolution)}
        for width in range(self.least, self.most + 1, self.step):
            height = min(self.most, area // width // self.step * self.step)
            if height >= self.least:
                found |= {(width, height), (height, width)}
        return sorted(found)

    def place(self, size: Size) -> Placed:
        """Where a picture of `size` goes."""
        width, height = size
        if not self.upscale and not self.square:
            scaled = self._reduced(width, height)
            bucket = tuple(side - side % self.step for side in scaled)
            if min(bucket) < self.step:
                raise SettingError(
                    f"a picture of {width}x{height} pixels is smaller than a step of {self.step}: leave it out, or "
                    "allow it to be enlarged (--upscale)."
                )
            return _cut(scaled, (bucket[0], bucket[1]))
        ratio = width / height
        bucket = size if size in self.sizes else min(self.sizes, key=lambda each: abs(each[0] / each[1] - ratio))
        scale = bucket[1] / height if ratio > bucket[0] / bucket[1] else bucket[0] / width
        scaled = max(int(width * scale + 0.5), bucket[0]), max(int(height * scale + 0.5), bucket[1])
        return _cut(scaled, (bucket[0], bucket[1]))

    def _reduced(self, width: int, height: int) -> Size:
        """No larger than the area, one side a multiple of the step: that which keeps the proportions better."""
        area, ratio = self.resolution**2, width / height
        if width * height <= area:
            return width, height
        wide, high = math.sqrt(area * ratio), area / math.sqrt(area * ratio)
        by_width, by_height = self._multiple(wide), self._multiple(high)
        of_width = by_width / max(self._multiple(by_width / ratio), self.step)
        of_height = self._multiple(by_height * ratio) / max(by_height, self.step)
        if abs(of_width - ratio) < abs(of_height - ratio):
            return by_width, int(by_width / ratio + 0.5)
        return int(by_height * ratio + 0.5), by_height

    def _multiple(self, side: float) -> int:
        rounded = int(side + 0.5)
        return rounded - rounded % self.step


def _cut(scaled: Size, size: Size) -> Placed:
    return Placed(scaled, size, (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2)


class Bucketed(Shuffled):
    """Every sample once an epoch, in batches of one bucket, in an order that follows from (seed, epoch).

    `buckets` are the sizes of the samples, `batch` how many make a batch on all processes together. A bucket's last
    batch is filled up from the bucket itself: such a draw has a number beyond `length`, so that what is drawn for it
    is new; its sample is number % length.
    """

    def __init__(self, buckets: Sequence[Size], batch: int, seed: int) -> None:
        super().__init__(len(buckets), seed)
        self.batch = batch
        self._members: dict[Size, list[int]] = {}
        for number, size in enumerate(buckets):
            self._members.setdefault(size, []).append(number)

    def __len__(self) -> int:
        return sum(-(-len(members) // self.batch) for members in self._members.values()) * self.batch

    def __iter__(self) -> Iterator[Draw]:
        rng = generator(self.seed, self.epoch)
        batches: list[list[int]] = []
        for size in sorted(self._members):
            order = [self._members[size][i] for i in rng.permutation(len(self._members[size]))]
            rounds = -(-len(order) // self.batch) * self.batch
            filled = [order[i % len(order)] + self.length * (i // len(order)) for i in range(rounds)]
            batches += [filled[i : i + self.batch] for i in range(0, rounds, self.batch)]
        for i in rng.permutation(len(batches)):
            yield from (Draw(self.epoch, number) for number in batches[i])
