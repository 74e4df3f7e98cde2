"""A ViT as a folder that transformers or timm opens."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from eyesel.errors import OutputError, SettingError
from eyesel.models.vit import ViTConfig
from eyesel.weights import vit_timm_format as timm
from eyesel.weights import vit_transformers_format as transformers
from eyesel.weights.hub import SUFFIXES
from eyesel.weights.save import replacing, save_tensors, write_json
from eyesel.weights.views import HeldTensor, StoredTensor

FORMATS = ("transformers", "timm")


def write_vit(
    folder: Path,
    format: str,
    config: ViTConfig,
    tensors: Mapping[str, StoredTensor],
    labels: Sequence[str],
    problem_type: str,
    preprocessing: Mapping[str, Any],
    picture_size: tuple[int, int] | None,
    dtype: torch.dtype | None = None,
    force: bool = False,
) -> None:
    """`tensors` are under our names; `preprocessing` is in the words of the format, a preprocessor_config.json of
    transformers or a pretrained_cfg of timm, and makes pictures of `picture_size`. Raises `SettingError` where the
    format has no such network; what its library computes a little otherwise is said in a warning.
    """
    if folder.suffix in SUFFIXES:
        raise OutputError(f"{folder} is to be a folder: give it a name that does not end in {folder.suffix}.")
    write = {"transformers": _transformers, "timm": _timm}[format]
    with replacing(folder, force) as fresh:
        described, state = write(config, tensors, labels, preprocessing)
        if problem_type != "single_label_classification":
            described["problem_type"] = problem_type
        if format == "transformers":
            stored_as = dtype or tensors["patch_embeddings.weight"].dtype
            described["dtype"] = described["torch_dtype"] = str(stored_as).removeprefix("torch.")
            write_json(fresh / "preprocessor_config.json", preprocessing)
        write_json(fresh / "config.json", described)
        save_tensors(fresh / "model.safetensors", state, {"format": "pt"}, dtype)
    antialias = format == "timm" or described["model_type"] == "dinov2_with_registers"
    if picture_size != config.image_size and (config.resampling_antialias, config.resampling_offset) != (
        antialias,
        0.0,
    ):
        warnings.warn(
            f"{format} resamples position embeddings otherwise, from the {config.image_size} pixels that they were "
            "learned at to those of the pictures; scores can differ in the second digit.",
            stacklevel=2,
        )


def _transformers(
    config: ViTConfig, tensors: Mapping[str, StoredTensor], labels: Sequence[str], preprocessing: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    config, tensors = with_prefix_positions(config, tensors, config.class_token + config.distillation_token)
    described, table = transformers.written_config(config)
    state = table.written(tensors)
    if config.layer_scale and config.registers:  # transformers looks for it, and uses it in pretraining alone
        state[f"{table.prefix}embeddings.mask_token"] = HeldTensor(
            tensors["patch_embeddings.weight"].read().new_zeros(1, config.dim)
        )
    if config.classes:
        described["id2label"] = {str(i): label for i, label in enumerate(labels)}
        described["label2id"] = {label: i for i, label in enumerate(labels)}
    return described, state


def _timm(
    config: ViTConfig, tensors: Mapping[str, StoredTensor], labels: Sequence[str], preprocessing: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    if config.prefix_positions not in (0, config.prefix_tokens):
        config, tensors = with_prefix_positions(config, tensors, 0)
    described, table = timm.written_config(config)
    if config.norm_eps != timm.norm_eps(config.embedding_norm):
        warnings.warn(
            f"timm computes with a norm_eps of {timm.norm_eps(config.embedding_norm):g} where this model has "
            f"{config.norm_eps:g}; scores can differ in the last digits.",
            stacklevel=2,
        )
    described["label_names"] = list(labels)
    described["pretrained_cfg"] = {
        **preprocessing,
        "num_classes": config.classes,
        "fixed_input_size": True,
        "first_conv": "patch_embed.proj",
        "classifier": ["head", "head_dist"] if config.distillation_head else "head",
    }
    return described, table.written(tensors)


def with_prefix_positions(
    config: ViTConfig, tensors: Mapping[str, StoredTensor], count: int
) -> tuple[ViTConfig, Mapping[str, StoredTensor]]:
    """The same network with so many positions for the tokens before the patches: those that it has move into the tokens
    themselves, and the new ones are zero.
    """
    if config.prefix_positions == count:
        return config, tensors
    positions = tensors["position_embeddings"].read()
    prefix, patches = positions.tensor_split([config.prefix_positions], dim=1)
    changed = {"position_embeddings": torch.cat([patches.new_zeros(1, count, config.dim), patches], dim=1)}
    for name in ("cls_token", "distillation_token", "register_tokens"):
        if name in tensors:
            token = tensors[name].read()  # (1, tokens, dim)
            own, prefix = prefix.tensor_split([token.shape[1]], dim=1)
            changed[name] = token + F.pad(own, (0, 0, 0, token.shape[1] - own.shape[1]))
    held = {name: HeldTensor(tensor) for name, tensor in changed.items()}
    return replace(config, prefix_positions=count), {**tensors, **held}


def check_format(format: str) -> None:
    if format not in FORMATS:
        raise SettingError(f"Format {format!r} is unknown; choose one of {', '.join(FORMATS)}.")
