"""The pictures of a data set: each opened once before training, so that a bad one is known by name at once."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from eyesel.errors import ImageError
from eyesel.images import ahead, open_image

KEEP = 1 << 30  # bytes of decoded pictures that are held in memory, of all splits together
_MOST_WORKERS = 8
_MOST_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Pictures:
    """A sequence of upright RGB pictures by number. Small sets stay decoded in memory; of large ones, the rest is
    decoded each time.

    `sources` are what `open_image` opens. `kept` holds (H, W, 3) uint8 or None.
    """

    sources: Sequence[Any]
    kept: Sequence[np.ndarray | None]

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def size(self) -> int:
        """Bytes that are held in memory."""
        return sum(array.nbytes for array in self.kept if array is not None)

    def subset(self, numbers: Sequence[int]) -> "Pictures":
        return Pictures([self.sources[i] for i in numbers], [self.kept[i] for i in numbers])

    def __getitem__(self, index: int) -> Image.Image:
        array = self.kept[index]
        return open_image(self.sources[index]) if array is None else Image.fromarray(array)


def opened(sources: Sequence[Any], strict: bool = False, keep: int = KEEP) -> tuple[Pictures, list[int], list[str]]:
    """The pictures among `sources` that can be read, their numbers there, and a sentence for each of the others.

    With `strict` the first of those is raised, as `ImageError`. Up to `keep` bytes of pixels stay in memory.
    """
    good: list[int] = []
    kept: list[np.ndarray | None] = []
    errors: list[str] = []
    workers = min(os.cpu_count() or 1, _MOST_WORKERS)
    for index, result in enumerate(ahead(sources, _decoded, workers, 4 * workers)):
        if isinstance(result, ImageError):
            if strict:
                raise result
            errors.append(str(result))
            continue
        good.append(index)
        fits = result.nbytes <= keep
        kept.append(result if fits else None)
        keep -= result.nbytes if fits else 0
    return Pictures([sources[index] for index in good], kept), good, errors


def _decoded(source: Any) -> np.ndarray | ImageError:
    try:
        return np.asarray(open_image(source))
    except ImageError as error:
        return error


def about_skipped(errors: Sequence[str]) -> list[str]:
    """The first few by name, and how many there are."""
    if not errors:
        return []
    named = [f"left out: {error}" for error in errors[:_MOST_SHOWN]]
    return [*named, f"pictures left out because they cannot be read: {len(errors)}"]
