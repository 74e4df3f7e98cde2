"""LoRA by PEFT, inside our own ViT: put in, taken out again merged, and written as an adapter that PEFT opens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from eyesel.errors import SettingError
from eyesel.models.vit import ViT
from eyesel.weights.vit_transformers_format import written_config

_THEIRS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "o_proj"}
_PREFIX = "base_model.model."


def add_lora(model: ViT, targets: Sequence[str], rank: int, alpha: float, dropout: float) -> None:
    """Low-rank products beside every linear layer whose name ends in one of `targets`; they alone can be trained."""
    leaves = {name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    leaves -= {"classifier", "distillation_classifier", "pooler"}
    unknown = [target for target in targets if target not in leaves]
    if unknown or not targets:
        raise SettingError(
            f"lora_targets has {unknown or targets}; this model's layers are {', '.join(sorted(leaves))}."
        )
    pattern = rf"layers\.\d+\..*\.({'|'.join(targets)})"
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern)  # type: ignore[arg-type]
    inject_adapter_in_model(config, model)


def without_lora(model: ViT) -> ViT:
    """A ViT of plain layers with the products added to their weights; the model itself stays as it is."""
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if ".lora_" not in name:
            state[name.replace(".base_layer.", ".")] = tensor
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            weight = state[f"{name}.weight"]
            delta = layer.get_delta_weight("default")  # type: ignore[attr-defined]
            state[f"{name}.weight"] = weight + delta.to(weight.dtype)
    with torch.device("meta"):
        merged = ViT(model.config)
    merged.load_state_dict(state, assign=True)
    return merged.eval().requires_grad_(False)


def save_adapter(model: ViT, folder: Path, base: str) -> None:
    """`adapter_model.safetensors` and `adapter_config.json` for transformers' classifier of this shape, the new head
    among them: `PeftModel.from_pretrained(AutoModelForImageClassification..., folder)`.
    """
    described, _ = written_config(model.config)
    kind = described["model_type"]
    layers = f"{kind}.encoder.layer" if kind.startswith("dinov2") else f"{kind}.layers"
    state: dict[str, Tensor] = {}
    first: Any = None
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            first = first or layer
            path, _, leaf = name.removeprefix("layers.").rpartition(".")
            theirs = f"{_PREFIX}{layers}.{path}.{_THEIRS.get(leaf, leaf)}"
            for factor, linears in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
                state[f"{theirs}.{factor}.weight"] = linears["default"].weight.detach().cpu().contiguous()  # type: ignore[operator]
    for name, parameter in model.named_parameters():
        if name.startswith("classifier."):
            state[f"{_PREFIX}{name}"] = parameter.detach().cpu().contiguous()
    targets = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in state if ".lora_" in name})
    config = LoraConfig(
        r=first.r["default"],
        lora_alpha=first.lora_alpha["default"],
        target_modules=rf".*\.layers?\.\d+\..*\.({'|'.join(targets)})",
        modules_to_save=["classifier"],
        base_model_name_or_path=base,
        inference_mode=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
