"""Textual inversion (Gal et al. 2022): vectors that stand for a word, in every form in which they are passed on.

AUTOMATIC1111    {"string_to_param": {"*": (n, C)}, "name": ..., ...}    .pt, and hidden in pictures
diffusers        {"<token>": (C) or (n, C)}                              learned_embeds.safetensors or .bin
sd-scripts       {"emb_params": (n, C)}                                  .safetensors
SDXL             {"clip_l": (n, 768), "clip_g": (n, 1280)}               .safetensors
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eyesel.errors import CheckpointError
from eyesel.fields import readable
from eyesel.weights import families
from eyesel.weights.embedding_picture import PICTURES, read_picture
from eyesel.weights.files import open_tensors, read_pickle
from eyesel.weights.load import listed
from eyesel.weights.painter import refuse
from eyesel.weights.recognise import family_of_tensors
from eyesel.weights.views import StoredTensor

SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt", *PICTURES)
_LEARNED = ("learned_embeds.safetensors", "learned_embeds.bin")  # in the folders of diffusers
_ENCODERS = ("clip_l", "clip_g")
_WIDTHS = {
    (768,): families.SD1.name,
    (1024,): families.SD2.name,
    (768, 1280): families.SDXL.name,
    (1280,): families.REFINER.name,
}


@dataclass(frozen=True, eq=False)
class Embedding:
    """Words of a prompt (the file's stem, and the token that it says it is) and the vectors that they stand for."""

    words: tuple[str, ...]
    vectors: tuple[Tensor, ...]  # (n, C), one for each text encoder
    where: str

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(each.shape[1] for each in self.vectors)

    @property
    def base(self) -> str | None:
        """The family that it was made for, by the numbers in a vector."""
        return _WIDTHS.get(self.widths)

    def vectors_for(self, dims: Sequence[int]) -> tuple[Tensor, ...]:
        """The vectors, if text encoders that are `dims` wide can read them."""
        if self.widths != tuple(dims):
            own, theirs = (" and ".join(map(str, widths)) for widths in (self.widths, dims))
            made_for = f", for {self.base}" if self.base else ""
            raise CheckpointError(
                f"{self.where} is an embedding of {own} numbers a vector{made_for}, and this checkpoint reads "
                f"{theirs}: take one that was made for it."
            )
        return self.vectors


def open_embedding(path: str | Path) -> Embedding:
    """An embedding's file, or the folder that diffusers keeps it in. Raises `CheckpointError` for everything else."""
    path = Path(path).expanduser()
    with readable(path):
        if path.is_dir():
            path = next((path / name for name in _LEARNED if (path / name).is_file()), path)
        if not path.is_file():
            raise CheckpointError(f"there is no embedding {path}: check the path.")
        data = _data(path)
        vectors, token = _vectors(data, path)
        return _embedding((path.stem, *([token] if token else [])), vectors, str(path))


def is_embedding_folder(path: Path) -> bool:
    return any((path / name).is_file() for name in _LEARNED)


def bundled(word: str, vectors: Mapping[str, StoredTensor], where: str) -> Embedding:
    """The vectors of a word that a LoRA brings along."""
    return _embedding((word,), _by_encoder({key: stored.mapped() for key, stored in vectors.items()}), where)


def _data(path: Path) -> Mapping[str, Any]:
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        hidden = read_picture(path)
        if hidden is None:
            raise CheckpointError(f"{path} is a picture in which no embedding is hidden.")
        return hidden
    if suffix == ".safetensors":
        return {name: stored.mapped() for name, stored in open_tensors([path]).items()}
    data = read_pickle(path)
    if not isinstance(data, Mapping):
        raise CheckpointError(f"{path} holds a {type(data).__name__} where the vectors of a word were expected.")
    return data


def _vectors(data: Mapping[str, Any], path: Path) -> tuple[list[Tensor], str | None]:
    """The vectors for each text encoder, and the word that the file says it is, where it does."""
    if "string_to_param" in data:
        table = data["string_to_param"]
        tensors = _tensors(getattr(table, "_parameters", table))  # torch's ParameterDict, as the first of them had it
        if len(tensors) != 1:
            raise CheckpointError(f"{path} holds {len(tensors)} words where one was expected.")
        named = data.get("name") if path.suffix.lower() in PICTURES else None
        return list(tensors.values()), named if isinstance(named, str) else None
    tensors = _tensors(data)
    if "emb_params" in tensors or any(key in tensors for key in _ENCODERS):
        if extra := tensors.keys() - {"emb_params", *_ENCODERS}:
            raise CheckpointError(f"{path} also holds {listed(sorted(extra))}, which no Stable Diffusion reads.")
        return _by_encoder(tensors), None
    if len(tensors) != 1:
        raise refuse(path, family_of_tensors(tensors), "an embedding of textual inversion")
    [(token, vectors)] = tensors.items()
    return [vectors], token


def _tensors(table: Any) -> dict[str, Tensor]:
    named = table.items() if isinstance(table, Mapping) else ()
    return {str(name): value for name, value in named if isinstance(value, Tensor)}


def _by_encoder(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    return [tensors[key] for key in ("emb_params", *_ENCODERS) if key in tensors]


def _embedding(words: Sequence[str], vectors: Sequence[Tensor], where: str) -> Embedding:
    read = []
    for each in vectors:
        values = each.detach().to(torch.float32, copy=True)  # the file may go
        if each.dim() not in (1, 2) or not each.numel() or not each.is_floating_point() or not values.isfinite().all():
            shape = tuple(each.shape)
            raise CheckpointError(f"{where} holds numbers of shape {shape} that are no vectors of a word.")
        read.append(values.reshape(-1, each.shape[-1]))
    return Embedding(tuple(words), tuple(read), where)
