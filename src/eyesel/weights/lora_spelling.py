"""How LoRA files spell their tensors: which module of the model, and which factor of its change, as data.

A name is a module and an ending. kohya's sd-scripts and LyCORIS write the module's path with `_` for `.`, which cannot
be undone; so every module of the model at hand is spelled in every way that is known, and looked up.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from eyesel.models.clip_text import ClipText
from eyesel.models.unet import UNet
from eyesel.weights import diffusers_format, ldm_format
from eyesel.weights.clip_format import CLIP_TEXT
from eyesel.weights.rename import RenameTable

# --- endings

# The factor that a tensor is; where several endings match, the longest counts.
ENDINGS = {
    # kohya's sd-scripts and LyCORIS
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "core",
    ".alpha": "alpha",
    ".dora_scale": "magnitude",
    ".diff": "diff",
    ".diff_b": "bias",
    ".w_norm": "diff",
    ".b_norm": "bias",
    ".on_input": "on_input",
    # LyCORIS and PEFT
    **{f".{name}": name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")},
    **{f".{name}": name for name in ("lokr_w1", "lokr_w1_a", "lokr_w1_b")},
    **{f".{name}": name for name in ("lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")},
    # PEFT, and diffusers since it uses PEFT
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_B.bias": "product_bias",
    ".lora_magnitude_vector": "row_magnitude",
    ".lora_magnitude_vector.weight": "row_magnitude",
    # diffusers before
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
}
_RESCALING = ".weight"  # of (IA)³, whose other tensor is named `on_input`
_LONGEST_FIRST = sorted(ENDINGS, key=len, reverse=True)
WRAPPER = "base_model.model."  # around a module that PEFT has adapted


def split(name: str, names: Mapping[str, object]) -> tuple[str, str] | None:
    """The module and the factor that a tensor's name says; None if it is no part of a LoRA. `names` are all names."""
    for ending in _LONGEST_FIRST:
        if name.endswith(ending):
            return name.removesuffix(ending), ENDINGS[ending]
    module = name.removesuffix(_RESCALING)
    return (module, "rescaling") if f"{module}.on_input" in names else None


# --- modules


class Target(NamedTuple):
    """A module of a painter: `part` as the folders of diffusers name it, `path` as eyesel does."""

    part: str
    path: str


PARTS = ("unet", "text_encoder", "text_encoder_2")
_KOHYA = {1: (("lora_te_", "lora_te1_"),), 2: (("lora_te1_",), ("lora_te2_",))}  # by the number of text encoders
_COMFY = (("clip_l", "clip_h"), ("clip_g",))  # of the first text encoder and the second
_OLD_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def targets(unet: UNet, text_encoders: Sequence[ClipText]) -> dict[str, Target]:
    """Every module of a painter under every name that a LoRA may have for it."""
    found: dict[str, Target] = {}
    for path, (diffusers, ldm) in _spelled(unet, diffusers_format.UNET, ldm_format.unet_table(unet.config)):
        found |= dict.fromkeys(_unet_names(diffusers, ldm), Target("unet", path))
    for i, encoder in enumerate(text_encoders):
        for path, (transformers,) in _spelled(encoder, CLIP_TEXT):
            for name in _text_names(transformers, i, len(text_encoders)):
                found.setdefault(name, Target(PARTS[1 + i], path))
    return found


def _spelled(model: nn.Module, *tables: RenameTable) -> Iterator[tuple[str, list[str]]]:
    """The path of every module with weights, and how each table spells it."""
    for name, _ in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        if leaf == "weight":
            yield path, [table.spelling(name).rpartition(".")[0] for table in tables]


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _unet_names(diffusers: str, ldm: str) -> Iterator[str]:
    yield f"lora_unet_{_flat(diffusers)}"
    yield f"lora_unet_{_flat(ldm)}"
    yield f"lycoris_{_flat(diffusers)}"
    yield f"diffusion_model.{ldm}"  # ComfyUI
    # diffusers' attention processors named their factors like projections; saved alone, a UNet has no prefix
    for name in (diffusers, diffusers.replace(".to_out.0", ".to_out").replace(".to_", ".processor.to_")):
        yield f"unet.{name}"
        yield name


def _text_names(transformers: str, index: int, count: int) -> Iterator[str]:
    for prefix in _KOHYA[count][index]:
        yield prefix + _flat(transformers)
    for clip in _COMFY[index]:
        yield f"text_encoders.{clip}.transformer.{transformers}"
    path, _, leaf = transformers.rpartition(".")
    old = f"{path}.{_OLD_ATTENTION[leaf]}" if leaf in _OLD_ATTENTION else transformers
    for name in (transformers, old):
        for each in (name, name.removeprefix(CLIP_TEXT.prefix)):  # with transformers 5 the prefix is gone
            yield f"{PARTS[1 + index]}.{each}"
            yield each  # PEFT, whose folder is one model


def part_of(module: str) -> str:
    """The part that a module's name is of, without a painter to look it up in."""
    if module.startswith(("lora_te2_", "text_encoder_2.", "text_encoders.clip_g.")):
        return PARTS[2]
    text = module.startswith(("lora_te", "text_encoder", "text_model.", "encoder.layers."))
    return PARTS[1] if text else PARTS[0]


# --- what cannot be painted with

_OTHER_FAMILIES = {
    "double_blocks": "Flux",
    "single_transformer_blocks": "Flux",
    "joint_blocks": "Stable Diffusion 3",
    "transformer.transformer_blocks": "Stable Diffusion 3 or another transformer",
    "lora_prior_": "Stable Cascade",
    "motion_modules": "AnimateDiff",
    "temporal_transformer": "AnimateDiff",
}


def other_family(modules: Iterable[str]) -> str | None:
    """The family, not Stable Diffusion 1, 2 or XL, that modules of these names are from; None if they do not say."""
    modules = list(modules)
    for signature, family in _OTHER_FAMILIES.items():
        if any(signature in module for module in modules):
            return family
    return None
