"""LoRA by PEFT, inside our own ViT: put in, taken out again merged, and written as an adapter that PEFT opens."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from eyesel.errors import SettingError
from eyesel.models.vit import ViT, ViTConfig
from eyesel.weights.vit_transformers_format import written_config

_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"
_THEIRS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "o_proj"}
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Lora:
    """A weight becomes W + alpha / rank · up · down (Hu et al. 2021); `targets` are names of linear layers."""

    rank: int = 16
    alpha: float = 16.0
    dropout: float = 0.1
    targets: tuple[str, ...] = ("to_q", "to_v")

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1 or not self.alpha > 0:
            raise SettingError(
                f"LoRA has rank {self.rank}, alpha {self.alpha:g} and dropout {self.dropout:g}; rank is 1 or more, "
                "alpha more than 0, and dropout from 0 to below 1."
            )

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def add_lora(model: ViT, lora: Lora) -> None:
    """Low-rank products beside every linear layer of the blocks whose name is a target; only they can be trained."""
    leaves = {name.rpartition(".")[2] for name, layer in model.layers.named_modules() if isinstance(layer, nn.Linear)}
    unknown = [target for target in lora.targets if target not in leaves]
    if unknown or not lora.targets:
        raise SettingError(
            f"lora_targets has {unknown or 'nothing'}; this model's layers are {', '.join(sorted(leaves))}."
        )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=rf"layers\.\d+\..*\.({'|'.join(lora.targets)})",
    )
    inject_adapter_in_model(config, model)


def merged(state: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """The weights of a model with LoRA as those of one without, the products added."""
    plain = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if ".lora_" not in name}
    for name, down in state.items():
        if name.endswith(_DOWN):
            path = name.removesuffix(_DOWN)
            plain[f"{path}.weight"] = plain[f"{path}.weight"] + lora.scale * (state[path + _UP] @ down)
    return plain


def save_adapter(folder: Path, state: Mapping[str, Tensor], config: ViTConfig, lora: Lora, base: str) -> None:
    """`adapter_model.safetensors` and `adapter_config.json` for transformers' classifier of this shape, the new head
    among them: `PeftModel.from_pretrained(AutoModelForImageClassification.from_pretrained(...), folder)`.
    """
    kind = written_config(config)[0]["model_type"]
    layers = f"{kind}.encoder.layer" if kind.startswith("dinov2") else f"{kind}.layers"
    theirs: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            path, _, leaf = name.partition(".lora_")[0].removeprefix("layers.").rpartition(".")
            factor = "lora_A" if name.endswith(_DOWN) else "lora_B"
            theirs[f"{_PREFIX}{layers}.{path}.{_THEIRS.get(leaf, leaf)}.{factor}.weight"] = tensor.contiguous()
        elif name.startswith("classifier."):
            theirs[_PREFIX + name] = tensor.contiguous()
    targets = [_THEIRS.get(target, target) for target in lora.targets]
    described = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=rf".*\.layers?\.\d+\..*\.({'|'.join(targets)})",
        modules_to_save=["classifier"],
        base_model_name_or_path=base,
        inference_mode=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    described.save_pretrained(str(folder))
    save_file(theirs, folder / "adapter_model.safetensors", metadata={"format": "pt"})
