"""What the frozen models of a painter make of pictures and captions, computed once for all epochs."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eyesel.images import from_pil
from eyesel.stable_diffusion import StableDiffusion
from eyesel.stylize.inversions import fingerprint
from eyesel.train.diffusion.buckets import Buckets, Placed, Size
from eyesel.train.diffusion.cache import Cache, key_of
from eyesel.train.diffusion.captions import Sample
from eyesel.train.diffusion.dataset import Example, fitted
from eyesel.train.diffusion.methods import Prepared
from eyesel.train.diffusion.texts import Reader, Wording
from eyesel.train.pictures import Pictures


def encoded(
    painter: StableDiffusion,
    samples: Sequence[Sample],
    pictures: Pictures,
    buckets: Buckets,
    cache: Cache,
    flip: bool = False,
) -> list[Example]:
    """The samples, the latents of each picture computed once."""
    of_encoder = fingerprint([painter.autoencoder])
    by_path: dict[Path, tuple[int, Placed, Size, tuple[str, ...]]] = {}
    for number, path in enumerate(pictures.sources):
        picture = pictures[number]
        placed = buckets.place(picture.size)
        keys = []
        for mirrored in (False, True)[: 1 + flip]:
            key = key_of(of_encoder, picture.size, picture.tobytes(), placed, mirrored)
            cache.make(key, partial(_moments, painter, fitted(picture, placed, mirrored)))
            keys.append(key)
        by_path[path] = (number, placed, picture.size, tuple(keys))
    return [
        Example(number, sample, placed, size, keys)
        for sample in samples
        for number, placed, size, keys in [by_path[sample.path]]
    ]


@torch.no_grad()
def _moments(painter: StableDiffusion, picture: Any) -> dict[str, Tensor]:
    mean, log_variance = painter.autoencoder.moments(from_pil([picture]).to(painter.device))
    return {"mean": mean[0], "log_variance": log_variance[0]}


@torch.no_grad()
def encoded_texts(
    prepared: Prepared, reader: Reader, wording: Wording, examples: Sequence[Example], cache: Cache
) -> dict[str, str] | None:
    """The keys of all captions, encoded; None where they change from draw to draw or the encoders learn."""
    task = prepared.task
    if task.trains_text or not wording.fixed:
        return None
    of_encoders = fingerprint(task.text_encoders)
    keys = {}
    device = task.objective.alphas_cumprod.device
    for text in dict.fromkeys(["", *(example.sample.caption or "" for example in examples)]):
        ids = reader.ids(text)
        keys[text] = key_of(of_encoders, task.xl, [rows.tolist() for rows in ids])
        cache.make(keys[text], partial(_text, task, [rows[None].to(device) for rows in ids]))
    return keys


def _text(task: Any, ids: list[Tensor]) -> dict[str, Tensor]:
    context, pooled = task.encode_texts(ids)
    return {"context": context[0], **({"pooled": pooled[0]} if task.xl else {})}
