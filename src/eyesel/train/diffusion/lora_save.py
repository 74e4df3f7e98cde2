"""A trained LoRA in the two spellings that programs read: diffusers' (PEFT's), and kohya's with its metadata."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eyesel import __version__
from eyesel.models.unet import UNetConfig
from eyesel.train.diffusion.buckets import Size
from eyesel.train.diffusion.captions import Sample, folders, tags
from eyesel.train.diffusion.lora import Lora
from eyesel.weights.clip_format import CLIP_TEXT
from eyesel.weights.diffusers_format import UNET
from eyesel.weights.families import SDXL, Family
from eyesel.weights.ldm_format import unet_table
from eyesel.weights.lora_spelling import PARTS
from eyesel.weights.rename import RenameTable
from eyesel.weights.save import save_tensors
from eyesel.weights.views import HeldTensor

FILE = "pytorch_lora_weights.safetensors"
Loras = Mapping[str, Mapping[str, Lora]]  # by part (unet, text_encoder, ...) and path
_BASES = {"Stable Diffusion 1": "sd_v1", "Stable Diffusion 2": "sd_v2", "Stable Diffusion XL": "sdxl_base_v1-0"}


def save_diffusers(path: Path, loras: Loras, dtype: torch.dtype) -> None:
    """Without alpha, which readers then take to be the rank: `up` is scaled by alpha / rank."""
    tensors: dict[str, Tensor] = {}
    for part, layers in loras.items():
        for name, lora in _spelled(layers, UNET if part == "unet" else CLIP_TEXT):
            tensors[f"{part}.{name}.lora_A.weight"] = lora.down
            tensors[f"{part}.{name}.lora_B.weight"] = lora.up * (lora.alpha / lora.rank)
    _save(path, tensors, {"format": "pt"}, dtype)


def save_kohya(
    path: Path, loras: Loras, config: UNetConfig, family: Family, metadata: Mapping[str, str], dtype: torch.dtype
) -> None:
    tensors: dict[str, Tensor] = {}
    encoders = {part: f"lora_te{i + 1}_" for i, part in enumerate(PARTS[1:])}
    prefixes = {"unet": "lora_unet_", **(encoders if family is SDXL else {PARTS[1]: "lora_te_"})}
    for part, layers in loras.items():
        # SDXL's UNet has its original names there, those of the others diffusers'
        table = CLIP_TEXT if part != "unet" else unet_table(config) if family is SDXL else UNET
        for name, lora in _spelled(layers, table):
            module = prefixes[part] + name.replace(".", "_")
            tensors[f"{module}.lora_down.weight"] = lora.down
            tensors[f"{module}.lora_up.weight"] = lora.up
            tensors[f"{module}.alpha"] = torch.tensor(float(lora.alpha))
    _save(path, tensors, metadata, dtype)


def kohya_metadata(
    *,
    title: str,
    base: str,
    family: Family,
    prediction_type: str,
    resolution: int,
    rank: int,
    alpha: float,
    samples: Sequence[Sample],
    sizes: Sequence[Size],
    arguments: Any,
    steps: int,
    settings: Mapping[str, Any],
) -> dict[str, str]:
    """What kohya's sd-scripts write (`train_network.py`) and the user interfaces show, and modelspec's fields. `sizes`
    are those of the samples in their buckets.
    """
    v2, batch = family.name == "Stable Diffusion 2", arguments.per_device_train_batch_size * arguments.world_size
    instances = [sample for sample in samples if not sample.prior]
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_base_model_version": _BASES[family.name] + ("_768_v" if v2 and prediction_type == "v_prediction" else ""),
        "ss_v2": str(v2),
        "ss_sd_model_name": base,
        "ss_output_name": title,
        "ss_resolution": f"({resolution}, {resolution})",
        "ss_num_train_images": str(sum(sample.repeats for sample in instances)),
        "ss_num_reg_images": str(sum(sample.prior for sample in samples)),
        "ss_batch_size_per_device": str(arguments.per_device_train_batch_size),
        "ss_total_batch_size": str(batch * arguments.gradient_accumulation_steps),
        "ss_gradient_accumulation_steps": str(arguments.gradient_accumulation_steps),
        "ss_learning_rate": f"{arguments.learning_rate:g}",
        "ss_lr_scheduler": getattr(arguments.lr_scheduler_type, "value", str(arguments.lr_scheduler_type)),
        "ss_steps": str(steps),
        "ss_max_train_steps": str(steps),
        "ss_seed": str(arguments.seed),
        "ss_min_snr_gamma": str(settings["snr_gamma"]),
        "ss_noise_offset": str(settings["noise_offset"]),
        "ss_caption_dropout_rate": str(settings["caption_dropout"]),
        "ss_clip_skip": "None",
        "ss_dataset_dirs": json.dumps(folders(instances), ensure_ascii=False),
        "ss_bucket_info": json.dumps(_bucket_info(sizes)),
        "ss_tag_frequency": json.dumps(tags(instances), ensure_ascii=False),
        "ss_training_comment": f"eyesel {__version__}",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{family.architecture}/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": title,
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.prediction_type": "v" if prediction_type == "v_prediction" else prediction_type,
    }


def _bucket_info(sizes: Sequence[Size]) -> dict[str, Any]:
    counts = sorted(Counter(sizes).items())
    return {"buckets": {str(i): {"resolution": list(size), "count": count} for i, (size, count) in enumerate(counts)}}


def _spelled(layers: Mapping[str, Lora], table: RenameTable) -> Iterator[tuple[str, Lora]]:
    for path, lora in layers.items():
        yield table.spelling(f"{path}.weight").rpartition(".")[0], lora


def _save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], dtype: torch.dtype) -> None:
    held = {name: HeldTensor(tensor.detach().float().cpu().contiguous()) for name, tensor in tensors.items()}
    save_tensors(path, held, metadata, dtype)
