"""The pictures of a data set: each opened once before training, so that a bad one is known by name at once."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from eyesel.errors import ImageError
from eyesel.images import ahead, open_image

KEEP = 1 << 30  # bytes of decoded pictures that are held in memory, of all splits together
WORKERS = min(os.cpu_count() or 1, 8)
_MOST_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Pictures:
    """A sequence of upright RGB pictures by number. Small sets stay decoded in memory; of large ones, the rest is
    decoded each time.

    `sources` are what `open_image` opens, `kept` the pictures that are held or None. With `at_least`, pictures come at
    a half, a third, ... of their size, the smallest that leaves both sides that many pixels; what does not make a whole
    pixel then is left out, at the right and below.
    """

    sources: Sequence[Any]
    kept: Sequence[Image.Image | None]
    at_least: int | None = None

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def size(self) -> int:
        """Bytes that are held in memory."""
        return sum(_bytes(image) for image in self.kept if image is not None)

    def subset(self, numbers: Sequence[int]) -> "Pictures":
        return Pictures([self.sources[i] for i in numbers], [self.kept[i] for i in numbers], self.at_least)

    def whole(self) -> "Pictures":
        """The same in their own size; none of them is held."""
        return Pictures(self.sources, [None] * len(self))

    def __getitem__(self, index: int) -> Image.Image:
        """Not to be changed: it may be the one that is held."""
        image = self.kept[index]
        return _reduced(self.sources[index], self.at_least) if image is None else image


def opened(
    sources: Sequence[Any], strict: bool = False, keep: int = KEEP, at_least: int | None = None
) -> tuple[Pictures, list[int], list[str]]:
    """The pictures among `sources` that can be read, their numbers there, and a sentence for each of the others.

    With `strict` the first of those is raised, as `ImageError`. Up to `keep` bytes of pixels stay in memory.
    """
    good: list[int] = []
    kept: list[Image.Image | None] = []
    errors: list[str] = []
    for index, result in enumerate(ahead(sources, partial(_readable, at_least=at_least), WORKERS, 4 * WORKERS)):
        if isinstance(result, ImageError):
            if strict:
                raise result
            errors.append(str(result))
            continue
        good.append(index)
        fits = _bytes(result) <= keep
        kept.append(result if fits else None)
        keep -= _bytes(result) if fits else 0
    return Pictures([sources[index] for index in good], kept, at_least), good, errors


def _readable(source: Any, at_least: int | None) -> Image.Image | ImageError:
    try:
        return _reduced(source, at_least)
    except ImageError as error:
        return error


def _reduced(source: Any, at_least: int | None) -> Image.Image:
    """JPEGs are decoded at a smaller size already, if their sides can be divided."""
    image = open_image(source, at_least=at_least)
    share = 1 if at_least is None else min(image.size) // at_least
    if share < 2:
        return image
    return image.reduce(share, (0, 0, image.width // share * share, image.height // share * share))


def _bytes(image: Image.Image) -> int:
    return 4 * image.width * image.height  # Pillow pads RGB


def about_skipped(errors: Sequence[str]) -> list[str]:
    """The first few by name, and how many there are."""
    if not errors:
        return []
    named = [f"left out: {error}" for error in errors[:_MOST_SHOWN]]
    return [*named, f"pictures left out because they cannot be read: {len(errors)}"]
