"""Draws of a picture with its caption: everything that chance decides is drawn here, from the draw's own generator."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from eyesel.images import MAX_PIXELS, from_pil
from eyesel.models.autoencoder import AutoencoderConfig
from eyesel.train.diffusion.buckets import Placed, Size
from eyesel.train.diffusion.cache import Cache
from eyesel.train.diffusion.captions import Sample
from eyesel.train.diffusion.masks import random_mask
from eyesel.train.diffusion.texts import Reader, Wording
from eyesel.train.draws import Draw, generator
from eyesel.train.pictures import Pictures


@dataclass(frozen=True)
class Example:
    """One sample of an epoch: the number of its picture, and how that becomes latents."""

    picture: int
    sample: Sample
    placed: Placed
    original: Size
    keys: tuple[str, ...]  # of the cached moments, and of those of the mirrored picture where they are wanted


@dataclass(frozen=True)
class Drawing:
    """How a draw is made. `texts` are the keys of encoded captions, None where the task encodes them itself."""

    config: AutoencoderConfig
    wording: Wording
    reader: Reader
    timesteps: int
    seed: int
    noise_offset: float = 0.0
    prior_weight: float = 1.0
    texts: dict[str, str] | None = None
    zero: bool = False  # a caption that is left out is zeros, not the empty text
    xl: bool = False
    repaints: bool = False


class Drawn(Dataset[dict[str, Tensor]]):
    def __init__(self, examples: Sequence[Example], pictures: Pictures, cache: Cache, drawing: Drawing) -> None:
        self.examples, self.pictures, self.cache, self.drawing = examples, pictures, cache, drawing

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def sizes(self) -> list[Size]:
        return [example.placed.size for example in self.examples]

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        how, example = self.drawing, self.examples[draw.number % len(self.examples)]
        rng = generator(how.seed, draw.epoch, draw.number)
        mirrored = bool(rng.integers(len(example.keys)))
        timestep = int(rng.integers(how.timesteps))
        moments = self.cache[example.keys[mirrored]]
        mean, log_variance = moments["mean"], moments["log_variance"]
        z = mean + (log_variance / 2).exp() * _normal(rng, mean.shape)
        noise = _normal(rng, mean.shape)
        offset = _normal(rng, (len(mean), 1, 1))
        row = {
            "latents": (z - how.config.shift_factor) * how.config.scaling_factor,
            "noise": noise + how.noise_offset * offset,
            "timesteps": torch.tensor(timestep),
            "weight": torch.tensor(how.prior_weight if example.sample.prior else 1.0),
        }
        row |= self._text(example, rng)
        placed = example.placed
        if how.xl:
            left = placed.scaled[0] - placed.size[0] - placed.left if mirrored else placed.left
            numbers = (*example.original[::-1], placed.top, left, *placed.size[::-1])
            row["sizes"] = torch.tensor(numbers, dtype=torch.float32)
        if how.repaints:
            row["pixels"] = from_pil([fitted(self.pictures[example.picture], placed, mirrored)])[0]
            row["mask"] = random_mask(placed.size, rng)
        return row

    def _text(self, example: Example, rng: np.random.Generator) -> dict[str, Tensor]:
        how = self.drawing
        said = how.wording.draw(example.sample.caption, rng)
        row = {"silent": torch.tensor(said is None)} if how.zero and how.wording.dropout else {}
        if how.texts is None:
            return row | {f"ids_{i}": ids for i, ids in enumerate(how.reader.ids(said or ""))}
        return row | self.cache[how.texts[said or ""]]


def _normal(rng: np.random.Generator, shape: Sequence[int]) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))


def fitted(picture: Image.Image, placed: Placed, mirrored: bool = False) -> Image.Image:
    """A picture as its bucket has it."""
    left, top, (width, height) = placed.left, placed.top, placed.size
    cut = left, top, left + width, top + height
    if math.prod(placed.scaled) > MAX_PIXELS:  # a line of pixels, of which a part is enlarged
        x, y = picture.width / placed.scaled[0], picture.height / placed.scaled[1]
        part = cut[0] * x, cut[1] * y, cut[2] * x, cut[3] * y
        picture = picture.resize(placed.size, Image.Resampling.LANCZOS, part)
    else:
        if picture.size != placed.scaled:
            picture = picture.resize(placed.scaled, Image.Resampling.LANCZOS)
        picture = picture.crop(cut)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else picture


def collate(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
