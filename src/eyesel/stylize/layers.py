"""The decoder's self-attention, by the names of the UNet and by the numbers of StyleID."""

from collections.abc import Sequence

from eyesel.errors import SettingError
from eyesel.models.unet import UNetConfig


def decoder_layers(config: UNetConfig) -> dict[int, str]:
    """Number -> name of each spatial transformer on the way up, such as 6: "up_blocks.2.attentions.0".

    They are counted with the residual blocks, those without attention too, as `output_blocks` of the original code.
    """
    each = config.layers_per_block + 1
    return {
        each * level + i: f"up_blocks.{level}.attentions.{i}"
        for level, depth in enumerate(reversed(config.transformer_depth))
        for i in range(each if depth else 0)
    }


def chosen_layers(config: UNetConfig, wanted: Sequence[int | str] | None) -> list[int]:
    """The numbers of what is wanted, ascending; None is the last two thirds. `SettingError` names those there are."""
    there = decoder_layers(config)
    if wanted is None:
        return list(there)[len(there) // 3 :]
    chosen = set()
    for layer in wanted:
        text = str(layer).strip()
        found = {number for number, name in there.items() if text == str(number) or f"{name}.".startswith(f"{text}.")}
        if not found:
            valid = ", ".join(f"{number} ({name})" for number, name in there.items())
            raise SettingError(f"There is no layer {text!r} to inject a style into; this model has {valid or 'none'}.")
        chosen |= found
    return sorted(chosen)


def sites(config: UNetConfig, layers: Sequence[int]) -> list[str]:
    """The names of the self-attention modules in these layers, as taps see them."""
    there, depths = decoder_layers(config), tuple(reversed(config.transformer_depth))
    return [
        f"{there[number]}.transformer_blocks.{block}.attn1"
        for number in layers
        for block in range(depths[number // (config.layers_per_block + 1)])
    ]
