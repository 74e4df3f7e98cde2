"""A ViT checkpoint in its files, whatever their format: what loading, converting and saving start from."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyesel.errors import CheckpointError
from eyesel.fields import readable
from eyesel.models.vit import ViT, ViTConfig
from eyesel.weights import vit_transformers_format as transformers
from eyesel.weights.files import find_weights, open_tensors, read_json
from eyesel.weights.load import StoredModel, renamed, shapes_of
from eyesel.weights.painter import refuse
from eyesel.weights.recognise import family_of_config, family_of_tensors
from eyesel.weights.vit_formats import Spelling, spelling

_WANTED = "an image classifier, which is a Vision Transformer (ViT, DeiT, DINO, DINOv2)"


@dataclass(frozen=True)
class StoredViT:
    """`config` is its config.json, empty if there is none; `origin` says who writes such files: transformers, timm,
    google or meta (DINO, DINOv2).
    """

    model: StoredModel[ViT]
    config: Mapping[str, Any]
    origin: str


def open_vit_files(path: Path) -> StoredViT:
    """From a folder of transformers or timm, or one file of weights in any of their spellings or Google's."""
    with readable(path):
        return _open(path)


def _open(path: Path) -> StoredViT:
    config = _config(path)
    tensors = open_tensors(find_weights(path) if path.is_dir() else [path])
    found = spelling(tensors)
    if found is None:
        raise refuse(path, family_of_tensors(tensors), _WANTED)
    if not isinstance(config.get("problem_type") or "", str):
        raise CheckpointError(f"problem_type is {config['problem_type']!r}; it must be a text.")
    ours = renamed(found.tensors, found.table, str(path))
    shape = _shape(path, config, found, shapes_of(ours))
    return StoredViT(StoredModel(ViT, shape, ours, str(path)), config, _origin(config, found))


def _config(path: Path) -> dict[str, Any]:
    """config.json, empty where there is none; beside a single file it may be that of another model."""
    if not path.is_dir():
        described = read_json(path.parent / "config.json") if (path.parent / "config.json").is_file() else {}
        return described if _is_vit(described) else {}
    if (path / "model_index.json").is_file():
        raise refuse(path, family_of_config(read_json(path / "model_index.json")), _WANTED)
    if not (path / "config.json").is_file():
        return {}
    described = read_json(path / "config.json")
    if described.get("model_type", "vit") not in transformers.MODEL_TYPES:
        raise refuse(path, family_of_config(described), _WANTED)
    return described


def _is_vit(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") in transformers.MODEL_TYPES or "architecture" in config


def _shape(path: Path, config: Mapping[str, Any], found: Spelling, shapes: Mapping[str, tuple[int, ...]]) -> ViTConfig:
    if "model_type" in config:
        return transformers.config_of(config, shapes)
    if config:
        return found.config(config, shapes)
    shape = found.guess(shapes)
    warnings.warn(
        f"{path} comes without a config.json; its tensors are those of {shape.depth} layers of width {shape.dim}, "
        f"patches of {shape.patch_size[1]}x{shape.patch_size[0]} and pictures of "
        f"{shape.image_size[1]}x{shape.image_size[0]}; by convention: heads of {shape.dim // shape.heads} "
        f"channels, {shape.activation}, norm_eps {shape.norm_eps:g}.",
        stacklevel=2,
    )
    return shape


def _origin(config: Mapping[str, Any], found: Spelling) -> str:
    """DINOv2's folders, too, are Meta's: what their pictures are like is no matter of the spelling."""
    kind = str(config.get("model_type"))
    return "meta" if kind == "deit" or kind.startswith("dinov2") else found.origin
