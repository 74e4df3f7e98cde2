"""From a folder or file to its models: which format it is, what its configuration says, or what it is instead."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eyesel.errors import CheckpointError
from eyesel.models.autoencoder import Autoencoder
from eyesel.models.clip_text import ClipText
from eyesel.models.unet import UNet
from eyesel.models.vit import ViT
from eyesel.weights import clip_format, diffusers_format, vit_formats
from eyesel.weights.files import StoredTensor, find_weights, open_tensors, read_json
from eyesel.weights.load import load
from eyesel.weights.recognise import family_of_config, family_of_tensors


def _refuse(path: Path, family: str | None, wanted: str) -> CheckpointError:
    what = f"This is {family}" if family else "This is not a checkpoint of a known family"
    return CheckpointError(f"{what}: {path} cannot be opened as {wanted}.")


def open_vit(path: Path, device: torch.device, precision: str = "auto") -> tuple[ViT, dict[str, Any]]:
    """A ViT and its config.json, from a transformers or timm folder or a safetensors file in one."""
    wanted = "an image classifier, which is a Vision Transformer (model_type 'vit')"
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and (path / "model_index.json").is_file():
        raise _refuse(path, family_of_config(read_json(path / "model_index.json")), wanted)
    if path.is_dir() and (path / "config.json").is_file():
        described = read_json(path / "config.json")
        if described.get("model_type", "vit") != "vit":
            raise _refuse(path, family_of_config(described), wanted)
    tensors = open_tensors(find_weights(path) if path.is_dir() else [path])
    table = vit_formats.spelling(set(tensors))
    if table is None:
        raise _refuse(path, family_of_tensors(tensors), wanted)
    config = read_json(folder / "config.json")
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
    tokenizer_folders: list[Path]
    scheduler: dict[str, Any]
    index: dict[str, Any]


_PAINTERS = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
)


def open_stable_diffusion(
    path: Path, device: torch.device, precision: str = "auto", variant: str | None = None
) -> StableDiffusionParts:
    """SD 1.x, 2.x or XL from a diffusers folder."""
    wanted = "a painter, which is a diffusers folder of Stable Diffusion 1.x, 2.x or XL"
    if path.is_file():
        raise _refuse(path, family_of_tensors(open_tensors([path])), wanted)
    if not (path / "model_index.json").is_file():
        family = family_of_config(read_json(path / "config.json")) if (path / "config.json").is_file() else None
        raise _refuse(path, family, wanted)
    index = read_json(path / "model_index.json")
    if index.get("_class_name") not in _PAINTERS or index.get("requires_aesthetics_score"):
        raise _refuse(path, family_of_config(index), wanted)

    def tensors(part: str) -> Mapping[str, StoredTensor]:
        return open_tensors(find_weights(path / part, variant))

    def text_encoder(part: str) -> ClipText:
        config = read_json(path / part / "config.json")
        return load(
            lambda shapes: ClipText(clip_format.from_transformers_config(config, shapes)),
            tensors(part),
            clip_format.CLIP_TEXT,
            path / part,
            device,
            precision,
        )

    unet_config = diffusers_format.unet_config(read_json(path / "unet" / "config.json"))
    autoencoder_config = diffusers_format.autoencoder_config(read_json(path / "vae" / "config.json"))
    encoders = [part for part in ("text_encoder", "text_encoder_2") if (index.get(part) or [None])[0]]
    return StableDiffusionParts(
        unet=load(
            lambda _: UNet(unet_config), tensors("unet"), diffusers_format.UNET, path / "unet", device, precision
        ),
        autoencoder=load(
            lambda _: Autoencoder(autoencoder_config),
            tensors("vae"),
            diffusers_format.AUTOENCODER,
            path / "vae",
            device,
            precision,
        ),
        text_encoders=[text_encoder(part) for part in encoders],
        tokenizer_folders=[path / part.replace("text_encoder", "tokenizer") for part in encoders],
        scheduler=read_json(path / "scheduler" / "scheduler_config.json"),
        index=index,
    )
