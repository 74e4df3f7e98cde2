"""Many pictures through one network: decoded ahead in threads, answered one by one, in constant memory."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor

from eyesel.errors import ImageError, SettingError
from eyesel.images import ImageTransform, Names, Source, ahead, each_source, find_sources, open_image

T = TypeVar("T")

# Of what the network reads, sides of a picture that a draft keeps at least. What is read then is within 4 of 255 of
# what is read of the whole picture, and half of one on average; with twice its sides it would be 14, and 2 on average.
DRAFT = 4
_MOST_WORKERS = 8  # more than that wait for one another


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What became of one picture of many: a `value`, or the `error`, one sentence, for which there is none."""

    name: str
    value: T | None
    error: str | None = None
    thumbnail: Image.Image | None = None


@dataclass(frozen=True)
class _Prepared:
    name: str
    pixels: Tensor | None = None  # (1, 3, H, W)
    error: str | None = None
    thumbnail: Image.Image | None = None


def stream(
    images: Names | Iterable[Source],
    transform: ImageTransform,
    network: Callable[[Tensor], Iterable[T]],
    batch_size: int = 8,
    workers: int | None = None,
    draft: bool = False,
    thumbnail: int | None = None,
) -> Iterator[Answer[T]]:
    """What `network` makes of pixels (B, 3, H, W), picture by picture; see `ImageClassifier.classify_many`."""
    if batch_size < 1:
        raise SettingError(f"batch_size is {batch_size}; it must be at least 1.")
    if workers is not None and workers < 1:
        raise SettingError(f"workers is {workers}; it must be at least 1.")
    if thumbnail is not None and thumbnail < 1:
        raise SettingError(f"thumbnail is {thumbnail}; it must be at least 1 pixel.")
    side = transform.longest_input if draft else None
    at_least = None if side is None else max(DRAFT * side, thumbnail or 0)

    def prepare(source: Source) -> _Prepared:
        try:
            if isinstance(source.content, ImageError):
                raise source.content
            image = open_image(source.content, at_least=at_least)
            pixels = transform([image])
        except ImageError as error:
            return _Prepared(source.name, error=str(error))
        small = None
        if thumbnail is not None:
            small = image.copy()
            small.thumbnail((thumbnail, thumbnail))
        return _Prepared(source.name, pixels, thumbnail=small)

    threads = workers or min(os.cpu_count() or 1, _MOST_WORKERS)
    prepared = ahead(_sources(images), prepare, threads, 2 * batch_size + threads)
    return _answers(prepared, network, batch_size)


def _sources(images: Names | Iterable[Source]) -> Iterator[Source]:
    if isinstance(images, (str, os.PathLike)):
        return each_source(find_sources(images))
    if isinstance(images, (list, tuple)) and not any(isinstance(image, Source) for image in images):
        return each_source(find_sources(images))
    return iter(images)  # type: ignore[arg-type]


def _answers(
    prepared: Iterator[_Prepared], network: Callable[[Tensor], Iterable[T]], batch_size: int
) -> Iterator[Answer[T]]:
    for batch in _batches(prepared, batch_size):
        pixels = [item.pixels for item in batch if item.pixels is not None]
        values = iter(network(torch.cat(pixels)) if pixels else ())
        for item in batch:
            value = None if item.pixels is None else next(values)
            yield Answer(item.name, value, item.error, item.thumbnail)


def _batches(prepared: Iterable[_Prepared], size: int) -> Iterator[list[_Prepared]]:
    """`size` at a time; a picture of another shape, which only a checkpoint without a fixed size has, starts anew."""
    batch: list[_Prepared] = []
    shape: torch.Size | None = None
    for item in prepared:
        changed = item.pixels is not None and shape is not None and item.pixels.shape != shape
        if batch and (len(batch) == size or changed):
            yield batch
            batch = []
        shape = shape if item.pixels is None else item.pixels.shape
        batch.append(item)
    if batch:
        yield batch
