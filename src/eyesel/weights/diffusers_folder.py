"""A Stable Diffusion checkpoint as diffusers' folder of folders: read and written."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from eyesel.errors import CheckpointError, SettingError
from eyesel.models.clip_text import ClipText
from eyesel.models.unet import UNet
from eyesel.text.tokenizer import ClipTokenizer
from eyesel.weights import clip_format, diffusers_format
from eyesel.weights.families import REFINER, SD1, SD2, SDXL, Family, Prediction
from eyesel.weights.files import find_weights, open_tensors, read_json, read_tensor_metadata
from eyesel.weights.load import StoredModel, renamed, shapes_of
from eyesel.weights.lora_file import is_lora_folder
from eyesel.weights.painter import WANTED, Options, StoredPainter, open_autoencoder, refuse
from eyesel.weights.recognise import family_of_config
from eyesel.weights.save import save_tensors, write_json
from eyesel.weights.views import StoredTensor

_PIPELINES = {
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
}


@dataclass(frozen=True)
class Recommended:
    """How a checkpoint is best painted with; its folder may say so in `generation_config.json`, by diffusers' names."""

    num_inference_steps: int = 25
    guidance_scale: float = 7.5


def recommended(path: Path) -> Recommended:
    if not (path / "generation_config.json").is_file():
        return Recommended()
    config = read_json(path / "generation_config.json")
    known = {field.name: config[field.name] for field in fields(Recommended) if field.name in config}
    for name, value in known.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10_000:
            raise CheckpointError(f"{path / 'generation_config.json'} gives {name} as {value!r}; it must be a number.")
    return Recommended(**known)


def open_folder(path: Path, options: Options) -> StoredPainter:
    if not (path / "model_index.json").is_file():
        alone = family_of_config(read_json(path / "config.json")) if (path / "config.json").is_file() else None
        if is_lora_folder(path):
            alone = "a LoRA, which goes beside a model as --lora"
        raise refuse(path, alone, WANTED)
    index = read_json(path / "model_index.json")
    if str(index.get("_class_name")) not in _PIPELINES:
        raise refuse(path, family_of_config(index), WANTED)
    if options.ema:
        raise SettingError(f"{path} is a folder, which keeps no averaged weights aside: leave out ema.")

    def tensors(part: str) -> Mapping[str, StoredTensor]:
        return open_tensors(find_weights(path / part, options.variant))

    unet_files = find_weights(path / "unet", options.variant)
    unet = StoredModel(
        UNet,
        diffusers_format.unet_config(read_json(path / "unet" / "config.json")),
        renamed(open_tensors(unet_files), diffusers_format.UNET, str(path / "unet")),
        str(path / "unet"),
    )
    encoders = [part for part in ("text_encoder", "text_encoder_2") if _is_present(index, part)]
    family = _family_of_folder(index, unet)
    scheduler = read_json(path / "scheduler" / "scheduler_config.json")
    if options.prediction_type is not None:
        scheduler["prediction_type"] = options.prediction_type
    if options.zero_terminal_snr is not None:
        scheduler["rescale_betas_zero_snr"] = options.zero_terminal_snr
        if options.zero_terminal_snr:
            scheduler["timestep_spacing"] = "trailing"  # as in families.scheduler_config
    return StoredPainter(
        family=family,
        unet=unet,
        autoencoder=open_autoencoder(
            options.vae or path / "vae", family.scaling_factor, None if options.vae else options.variant
        ),
        text_encoders=[_text_encoder(path / part, tensors(part)) for part in encoders],
        tokenizers=[ClipTokenizer.load(path / part.replace("text_encoder", "tokenizer")) for part in encoders],
        scheduler=scheduler,
        index=index,
        prediction=Prediction(
            scheduler.get("prediction_type", "epsilon"),
            bool(scheduler.get("rescale_betas_zero_snr")),
            "scheduler_config.json" if options.prediction_type is None else "as asked for",
        ),
        metadata={k: v for k, v in read_tensor_metadata(unet_files[0]).items() if k != "format"},
    )


def _is_present(index: Mapping[str, Any], part: str) -> bool:
    entry = index.get(part)
    if entry is not None and not (isinstance(entry, list) and len(entry) == 2):
        raise CheckpointError(f"{part} is {entry!r} in model_index.json; it must be a library and a class.")
    return bool(entry and entry[0])


def _family_of_folder(index: Mapping[str, Any], unet: StoredModel[UNet]) -> Family:
    if unet.config.added_dim:
        return REFINER if index.get("requires_aesthetics_score") else SDXL
    return SD2 if unet.config.linear_projection else SD1


def _text_encoder(folder: Path, tensors: Mapping[str, StoredTensor]) -> StoredModel[ClipText]:
    config = read_json(folder / "config.json")
    tensors = renamed(tensors, clip_format.CLIP_TEXT, str(folder))
    return StoredModel(ClipText, clip_format.from_transformers_config(config, shapes_of(tensors)), tensors, str(folder))


def write_folder(painter: StoredPainter, path: Path, dtype: torch.dtype | None = None) -> None:
    """A folder that diffusers opens. What a single file says of itself stays in the metadata of the UNet."""
    unet, autoencoder = painter.unet, painter.autoencoder
    unet_json = diffusers_format.unet_config_json(unet.config)
    if painter.family is SD2:
        unet_json["upcast_attention"] = True  # the products of SD 2.1 overflow float16
    pixels = unet.config.sample_size * autoencoder.config.factor
    vae_json = diffusers_format.autoencoder_config_json(autoencoder.config, pixels)

    def write(part: str, name: str, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
        write_json(path / part / "config.json", config)
        metadata = {**(painter.metadata if part == "unet" else {}), "format": "pt"}
        save_tensors(path / part / f"{name}.safetensors", tensors, metadata, dtype)

    write("unet", "diffusion_pytorch_model", unet_json, diffusers_format.UNET.written(unet.tensors))
    vae = diffusers_format.AUTOENCODER.written(autoencoder.tensors)
    write("vae", "diffusion_pytorch_model", vae_json, vae)
    encoders = zip(painter.family.text_encoders, painter.text_encoders, painter.tokenizers, strict=True)
    for where, encoder, tokenizer in encoders:
        config = clip_format.transformers_config(encoder.config)
        write(where.folder, "model", config, clip_format.CLIP_TEXT.written(encoder.tensors))
        tokenizer.save(path / where.folder.replace("text_encoder", "tokenizer"))
    write_json(path / "scheduler" / "scheduler_config.json", painter.scheduler)
    left_out = {part: [None, None] for part in _NOT_PAINTING if part in painter.index}
    write_json(path / "model_index.json", {**painter.index, **left_out})


_NOT_PAINTING = ("safety_checker", "feature_extractor", "image_encoder")
