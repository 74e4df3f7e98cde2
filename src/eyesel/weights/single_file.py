"""A Stable Diffusion checkpoint as one file of ldm or sgm: read, without network, and written."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from eyesel.errors import CheckpointError, SettingError
from eyesel.models.clip_text import ClipText
from eyesel.models.unet import UNet, UNetConfig
from eyesel.text.tokenizer import ClipTokenizer
from eyesel.weights import ldm_format
from eyesel.weights.families import (
    FAMILIES,
    SD2,
    V_PREDICTION,
    Family,
    Prediction,
    TextEncoder,
    betas_are_usual,
    pipeline_index,
    scheduler_config,
)
from eyesel.weights.files import open_tensors, read_tensor_metadata
from eyesel.weights.ldm_format import UNET_PREFIX
from eyesel.weights.load import StoredModel, listed, renamed, shapes_of
from eyesel.weights.painter import (
    WANTED,
    Options,
    StoredPainter,
    autoencoder_of_tensors,
    autoencoder_part,
    open_autoencoder,
    refuse,
)
from eyesel.weights.prediction import ask_network, predict
from eyesel.weights.recognise import family_of_tensors, is_unsupported
from eyesel.weights.save import save_tensors
from eyesel.weights.views import HeldTensor, StoredTensor

VOCABULARY = 49_408
INPAINTING_CHANNELS = 9  # latents, mask, latents of the masked picture
_OTHER_CHANNELS = {
    5: "a depth-to-image checkpoint",
    7: "a Stable Diffusion upscaler",
    8: "an InstructPix2Pix checkpoint",
}


def open_file(path: Path, options: Options, device: torch.device | None = None) -> StoredPainter:
    """`device` is where the network is asked what it predicts, if it must be."""
    if options.variant is not None:
        raise SettingError(
            f"{path} is a single file, so there is no variant {options.variant!r} to choose: leave it out."
        )
    tensors = open_tensors([path])
    metadata = read_tensor_metadata(path)
    family = _family(path, tensors)
    _report_unexplained(path, tensors, family)

    averaged = ldm_format.averaged(tensors)
    if options.ema and averaged is None:
        raise CheckpointError(f"{path} holds no averaged (EMA) weights: open it without ema.")
    unet_tensors = averaged if options.ema and averaged is not None else ldm_format.under(tensors, UNET_PREFIX)
    text_encoders = [_text_encoder(encoder, tensors, path) for encoder in family.text_encoders]
    autoencoder = _autoencoder(path, tensors, family, options)
    config = _unet_config(family, unet_tensors, text_encoders)
    _refuse_other_tasks(path, family, config)
    unet = StoredModel(UNet, config, renamed(unet_tensors, ldm_format.unet_table(config), str(path)), str(path))

    inpainting = config.in_channels == INPAINTING_CHANNELS
    prediction = predict(
        explicit=options.prediction_type,
        zero_terminal_snr=options.zero_terminal_snr,
        metadata=metadata,
        names=tensors,
        sidecar=path.with_suffix(".yaml"),
        ask=partial(_ask, unet, device) if family is SD2 and not inpainting else None,
    )
    sample_size = _sample_size(family, prediction, metadata, autoencoder.config.factor)
    scheduler = scheduler_config(family, prediction)
    return StoredPainter(
        family=family,
        unet=replace(unet, config=replace(config, sample_size=sample_size)),
        autoencoder=autoencoder,
        text_encoders=text_encoders,
        tokenizers=[ClipTokenizer.bundled(encoder.pad) for encoder in family.text_encoders],
        scheduler=scheduler,
        index=pipeline_index(family, scheduler, inpainting),
        prediction=prediction,
        has_ema=averaged is not None,
        metadata={key: value for key, value in metadata.items() if key != "format"},
    )


def _ask(unet: StoredModel[UNet], device: torch.device | None) -> str:
    return ask_network(unet.load(device or torch.device("cpu")))


def _family(path: Path, tensors: Mapping[str, StoredTensor]) -> Family:
    has_unet = any(name.startswith(UNET_PREFIX) for name in tensors)
    if is_unsupported(tensors) or not has_unet:
        raise refuse(path, family_of_tensors(tensors), WANTED)
    for family in FAMILIES:
        if family.is_in(tensors):
            return family
    raise CheckpointError(
        f"{path} holds a UNet but no text encoder (cond_stage_model or conditioner): take a complete checkpoint."
    )


def _report_unexplained(path: Path, tensors: Mapping[str, StoredTensor], family: Family) -> None:
    encoders = tuple(encoder.prefix for encoder in family.text_encoders)
    names = ldm_format.unexplained(tensors, (UNET_PREFIX, *ldm_format.AUTOENCODER_PREFIXES, *encoders))
    if names:
        warnings.warn(f"{path} also holds tensors that {family.name} does not have: {listed(names)}", stacklevel=2)


def _refuse_other_tasks(path: Path, family: Family, config: UNetConfig) -> None:
    if config.in_channels not in (config.out_channels, INPAINTING_CHANNELS):
        other = _OTHER_CHANNELS.get(config.in_channels, f"a UNet of {config.in_channels} input channels")
        raise refuse(path, other, WANTED)
    if config.added_dim and not family.size_numbers:
        raise refuse(path, "an unCLIP checkpoint", WANTED)


def _text_encoder(encoder: TextEncoder, tensors: Mapping[str, StoredTensor], path: Path) -> StoredModel[ClipText]:
    ours = renamed(ldm_format.under(tensors, encoder.prefix), encoder.table, str(path))
    config = ldm_format.clip_config(shapes_of(ours), encoder.activation)
    if config.vocab_size != VOCABULARY:
        raise CheckpointError(
            f"{path} has a text encoder of {config.vocab_size:,} tokens, and CLIP's vocabulary has {VOCABULARY:,}: "
            "open it as a folder with its own tokenizer."
        )
    return StoredModel(ClipText, config, ours, str(path))


def _autoencoder(path: Path, tensors: Mapping[str, StoredTensor], family: Family, options: Options) -> StoredModel[Any]:
    if options.vae is not None:
        return open_autoencoder(options.vae, family.scaling_factor)
    part = autoencoder_part(tensors)
    if not part:
        raise CheckpointError(f"{path} holds no autoencoder (first_stage_model): name one with vae (--vae FILE).")
    return autoencoder_of_tensors(part, family.scaling_factor, path)


def _unet_config(
    family: Family, tensors: Mapping[str, StoredTensor], text_encoders: list[StoredModel[ClipText]]
) -> UNetConfig:
    pooled_dim = text_encoders[-1].config.projection_dim or 0
    return ldm_format.unet_config(shapes_of(tensors), family.heads, family.size_numbers, pooled_dim, family.sample_size)


def _sample_size(family: Family, prediction: Prediction, metadata: Mapping[str, str], factor: int) -> int:
    """In latents, of the pictures that the network was trained with: as the metadata say, else the family's."""
    stated = re.fullmatch(r"(\d{1,5})x\1", metadata.get("modelspec.resolution", ""))
    if stated and int(stated[1]) >= factor:
        return int(stated[1]) // factor
    if family is SD2 and prediction.type == V_PREDICTION:
        return 96  # 768 pixels
    return family.sample_size


# --- writing


def write_file(painter: StoredPainter, path: Path, dtype: torch.dtype | None, title: str) -> None:
    """A .safetensors file under the names that A1111, ComfyUI and diffusers read, with modelspec metadata.

    A single file says less than a folder; one whose reader would take something else for granted is refused.
    """
    family, unet = painter.family, painter.unet
    table = ldm_format.autoencoder_table(len(painter.autoencoder.config.channels))
    parts = {
        UNET_PREFIX: ldm_format.unet_table(unet.config).written(unet.tensors),
        ldm_format.AUTOENCODER_PREFIXES[0]: table.written(painter.autoencoder.tensors),
    }
    for encoder, model in zip(family.text_encoders, painter.text_encoders, strict=True):
        parts[encoder.prefix] = encoder.table.written(model.tensors)
    _refuse_what_is_not_said(painter, parts)
    tensors = {prefix + name: stored for prefix, part in parts.items() for name, stored in part.items()}
    markers = {"v_pred": painter.prediction.type == V_PREDICTION, "ztsnr": painter.prediction.zero_terminal_snr}
    tensors |= {name: HeldTensor(torch.zeros(0)) for name, holds in markers.items() if holds}
    save_tensors(path, tensors, {**_metadata(painter, title), "format": "pt"}, dtype)


def _metadata(painter: StoredPainter, title: str) -> dict[str, str]:
    """github.com/Stability-AI/ModelSpec, as kohya's sd-scripts write it; what the checkpoint says besides is kept."""
    v = painter.prediction.type == V_PREDICTION
    pixels = painter.unet.config.sample_size * painter.autoencoder.config.factor
    return {
        "modelspec.title": title,
        **painter.metadata,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v2-768-v"
        if v and painter.family is SD2
        else painter.family.architecture,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.resolution": f"{pixels}x{pixels}",
        "modelspec.prediction_type": "v" if v else "epsilon",
    }


def _refuse_what_is_not_said(painter: StoredPainter, parts: Mapping[str, Mapping[str, StoredTensor]]) -> None:
    family, unet, vae = painter.family, painter.unet.config, painter.autoencoder
    try:
        implied = _unet_config(family, parts[UNET_PREFIX], painter.text_encoders)
        implied_vae = ldm_format.autoencoder_config(shapes_of(vae.tensors), family.scaling_factor)
    except CheckpointError as error:
        raise _unsaid(f"an unusual shape ({str(error).rstrip('.')})") from error
    _refuse_differences("UNet", unet, replace(implied, sample_size=unet.sample_size))
    _refuse_differences("autoencoder", vae.config, implied_vae)
    for encoder, model, tokenizer in zip(family.text_encoders, painter.text_encoders, painter.tokenizers, strict=True):
        read_back = renamed(parts[encoder.prefix], encoder.table, model.where)
        config = model.config
        if config.eos_id == config.vocab_size - 1:  # the highest id, which is what None means
            config = replace(config, eos_id=None)
        _refuse_differences(encoder.folder, config, ldm_format.clip_config(shapes_of(read_back), encoder.activation))
        usual = ClipTokenizer.bundled(encoder.pad)
        if tokenizer.vocabulary != usual.vocabulary or tokenizer.pad_id != usual.pad_id:
            raise _unsaid(f"a tokenizer of its own ({len(tokenizer):,} tokens)")
    if not betas_are_usual(painter.scheduler):
        raise _unsaid("betas of its own")


def _refuse_differences(part: str, own: Any, implied: Any) -> None:
    for field in fields(own):
        if (value := getattr(own, field.name)) != getattr(implied, field.name):
            raise _unsaid(f"a {part} with {field.name} {value!r}, not {getattr(implied, field.name)!r}")


def _unsaid(what: str) -> CheckpointError:
    return CheckpointError(f"This checkpoint has {what}, which a single file has no place for: keep it as a folder.")
