"""From a folder or file to its models: which format it is, what its configuration says, or what it is instead."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eyesel.fields import readable
from eyesel.models.autoencoder import Autoencoder
from eyesel.models.clip_text import ClipText
from eyesel.models.unet import UNet
from eyesel.models.vit import ViT
from eyesel.text.tokenizer import ClipTokenizer
from eyesel.weights.diffusers_folder import open_folder
from eyesel.weights.painter import AS_IT_IS, Options, StoredPainter
from eyesel.weights.placement import SMALL_MODEL, choose_precision
from eyesel.weights.prediction import check_prediction
from eyesel.weights.single_file import open_file
from eyesel.weights.vit import open_vit_files


def open_vit(path: Path, device: torch.device, precision: str = "auto") -> tuple[ViT, Mapping[str, Any]]:
    """A ViT and its config.json (empty if there is none), from a folder or a file of weights."""
    stored = open_vit_files(path)
    return stored.model.load(device, precision), stored.config


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
    path: Path,
    device: torch.device,
    precision: str = "auto",
    options: Options = AS_IT_IS,
    storage: torch.device | None = None,
) -> StableDiffusionParts:
    """Everything loaded, for `device` and there, or kept in `storage`."""
    stored = open_painter(path, options, device)
    with readable(path):
        return StableDiffusionParts(
            unet=stored.unet.load(device, precision, storage),
            autoencoder=stored.autoencoder.load(device, _autoencoder_precision(device, precision), storage),
            text_encoders=[encoder.load(device, precision, storage) for encoder in stored.text_encoders],
            tokenizers=stored.tokenizers,
            scheduler=stored.scheduler,
            index=stored.index,
        )
