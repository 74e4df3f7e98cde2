"""From a folder or file to its models: which format it is, what its configuration says, or what it is instead."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eyesel.errors import CheckpointError
from eyesel.fields import readable
from eyesel.models.autoencoder import Autoencoder
from eyesel.models.clip_text import ClipText
from eyesel.models.unet import UNet
from eyesel.models.vit import ViT
from eyesel.text.tokenizer import ClipTokenizer
from eyesel.weights import vit_formats
from eyesel.weights.diffusers_folder import open_folder
from eyesel.weights.files import find_weights, open_tensors, read_json
from eyesel.weights.load import load
from eyesel.weights.painter import AS_IT_IS, Options, StoredPainter, refuse
from eyesel.weights.placement import SMALL_MODEL, choose_precision
from eyesel.weights.prediction import check_prediction
from eyesel.weights.recognise import family_of_config, family_of_tensors
from eyesel.weights.single_file import open_file


def open_vit(path: Path, device: torch.device, precision: str = "auto") -> tuple[ViT, dict[str, Any]]:
    """A ViT and its config.json, from a transformers or timm folder or a safetensors file in one."""
    with readable(path):
        return _open_vit(path, device, precision)


def _open_vit(path: Path, device: torch.device, precision: str) -> tuple[ViT, dict[str, Any]]:
    wanted = "an image classifier, which is a Vision Transformer (model_type 'vit')"
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and (path / "model_index.json").is_file():
        raise refuse(path, family_of_config(read_json(path / "model_index.json")), wanted)
    if path.is_dir() and (path / "config.json").is_file():
        described = read_json(path / "config.json")
        if described.get("model_type", "vit") != "vit":
            raise refuse(path, family_of_config(described), wanted)
    tensors = open_tensors(find_weights(path) if path.is_dir() else [path])
    table = vit_formats.spelling(set(tensors))
    if table is None:
        raise refuse(path, family_of_tensors(tensors), wanted)
    config = read_json(folder / "config.json")
    if not isinstance(config.get("problem_type") or "", str):
        raise CheckpointError(f"problem_type is {config['problem_type']!r}; it must be a text.")
    read_config = (
        vit_formats.from_timm_config
        if table is vit_formats.TIMM and "model_type" not in config
        else vit_formats.from_transformers_config
    )
    return load(lambda shapes: ViT(read_config(config, shapes)), tensors, table, path, device, precision), config


@dataclass(frozen=True)
class StableDiffusionParts:
    """The models of a Stable Diffusion checkpoint and the configuration that belongs to none of them."""

    unet: UNet
    autoencoder: Autoencoder
    text_encoders: list[ClipText]
    tokenizers: list[ClipTokenizer]
    scheduler: dict[str, Any]
    index: dict[str, Any]


def open_painter(path: Path, options: Options = AS_IT_IS, device: torch.device | None = None) -> StoredPainter:
    """SD 1.x, 2.x or XL in a diffusers folder or a single file, nothing of it loaded yet."""
    if options.prediction_type is not None:
        check_prediction(options.prediction_type)
    with readable(path):
        return open_file(path, options, device) if path.is_file() else open_folder(path, options)


def _autoencoder_precision(device: torch.device, precision: str) -> str:
    """Decoders overflow in float16 (SDXL's to black pictures); that half of the work is done in float32 instead."""
    return "float32" if choose_precision(precision, device, SMALL_MODEL) == torch.float16 else precision


def open_stable_diffusion(
    path: Path, device: torch.device, precision: str = "auto", options: Options = AS_IT_IS
) -> StableDiffusionParts:
    stored = open_painter(path, options, device)
    with readable(path):
        return StableDiffusionParts(
            unet=stored.unet.load(device, precision),
            autoencoder=stored.autoencoder.load(device, _autoencoder_precision(device, precision)),
            text_encoders=[encoder.load(device, precision) for encoder in stored.text_encoders],
            tokenizers=stored.tokenizers,
            scheduler=stored.scheduler,
            index=stored.index,
        )
