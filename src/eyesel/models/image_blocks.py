"""Which parts of a UNet an image prompt acts on, and how strongly: by block, as in diffusers' `set_ip_adapter_scale`.

What is called style and what layout on SDXL follows InstantStyle (Wang et al. 2024, section 3.3); for SD 1.x and 2.x,
which share the tasks out less clearly, it follows ComfyUI's IPAdapter nodes ("style transfer", "composition").
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch import nn

from eyesel.errors import SettingError
from eyesel.fields import plain
from eyesel.models.unet import UNet

MAX_SCALE = 100.0
Blocks = str | float | Mapping[str, Any]

_XL: dict[str, dict[str, Any]] = {"style": {"up.block_0": [0, 1, 0]}, "layout": {"down.block_2": [0, 1]}}
_OTHERS: dict[str, dict[str, Any]] = {
    "style": {"down.block_0": 1, "down.block_1": 1, "up.block_2": 1, "up.block_3": 1, "mid": 1},
    "layout": {"down.block_2": [0.25, 1]},
}
PRESETS = ("all", "style", "layout", "style+layout")


def cross_attention(unet: UNet) -> dict[str, list[str]]:
    """The paths of the cross-attention layers of each spatial transformer ("down.block_0.1" is the second of the first
    block), in the order in which diffusers counts them: down, up, middle.
    """
    found: dict[str, list[str]] = {}
    for side, levels in (("down", unet.down_blocks), ("up", unet.up_blocks)):
        for i, level in enumerate(levels):
            for j, transformer in enumerate(cast("Iterable[nn.Module]", level.attentions)):
                found[f"{side}.block_{i}.{j}"] = _layers(f"{side}_blocks.{i}.attentions.{j}", transformer)
    for transformer in cast("Iterable[nn.Module]", unet.mid_block.attentions):
        found["mid.0"] = _layers("mid_block.attentions.0", transformer)
    return found


def _layers(path: str, transformer: nn.Module) -> list[str]:
    count = len(cast("nn.ModuleList", transformer.transformer_blocks))
    return [f"{path}.transformer_blocks.{k}.attn2" for k in range(count)]


def layer_scales(unet: UNet, scale: float, blocks: Blocks) -> dict[str, float]:
    """The scale of each cross-attention layer, by its path.

    `blocks` is one of `PRESETS`, or numbers by block, with which `scale` is multiplied: {"down": {"block_2": [0, 1]},
    "mid": 0.5, "up": 1}; a list has one number for each of the block's transformers, and what is not named gets 0.
    """
    scale, layers = _number("scale", scale), cross_attention(unet)
    levels = Counter(block.rpartition(".")[0] for block in layers)
    shares = dict.fromkeys(layers, 1.0 if blocks == "all" else 0.0)
    if blocks != "all":
        named = _preset(unet, blocks, levels) if isinstance(blocks, str) else _flat(blocks)
        for name, value in named.items():
            shares |= _shares(name, value, layers, levels)
    return {path: scale * shares[block] for block, paths in layers.items() for path in paths}


def _preset(unet: UNet, name: str, levels: Mapping[str, int]) -> dict[str, Any]:
    if name not in PRESETS:
        raise SettingError(f"blocks is {name!r}; choose one of {', '.join(PRESETS)}, or give numbers by block.")
    presets = _OTHERS if unet.config.added_dim is None else _XL
    preset = {block: share for part in name.split("+") for block, share in presets[part].items()}
    if not all(_has(levels[block], share) for block, share in preset.items()):
        raise SettingError(
            f"Where {name!r} lies is known of UNets of the shape of Stable Diffusion's and not of this one: "
            f"give numbers for its blocks, {', '.join(levels)}."
        )
    return preset


def _has(transformers: int, share: Any) -> bool:
    return transformers == len(share) if isinstance(share, list) else transformers > 0


def _flat(scales: Any) -> dict[str, Any]:
    """{"up": {"block_0": x}} -> {"up.block_0": x}."""
    if not isinstance(scales, Mapping):
        raise SettingError(f"blocks is {scales!r}; choose one of {', '.join(PRESETS)}, or give numbers by block.")
    flat: dict[str, Any] = {}
    for name, value in scales.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{block}": each for block, each in value.items()}
        else:
            flat[str(name)] = value
    return flat


def _shares(name: str, value: Any, layers: Iterable[str], levels: Mapping[str, int]) -> dict[str, float]:
    chosen = [block for block in layers if f"{block}.".startswith(f"{name}.")]
    if not chosen:
        raise SettingError(f"This UNet has no block {name!r} that looks at prompts: it has {', '.join(levels)}.")
    if not isinstance(value, list | tuple):
        return dict.fromkeys(chosen, _number(name, value))
    shares = {}
    for block in chosen:
        level, _, i = block.rpartition(".")
        if len(value) not in (1, levels[level]):
            raise SettingError(
                f"{name} has {len(value)} scales and {level} has {levels[level]} transformers: make them equal."
            )
        shares[block] = _number(name, value[int(i) if len(value) > 1 else 0])
    return shares


def _number(name: str, value: Any) -> float:
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_SCALE:
        raise SettingError(
            f"{name} is {value!r}; the scale of an image prompt is a number from -{MAX_SCALE:g} to {MAX_SCALE:g}."
        )
    return float(value)
