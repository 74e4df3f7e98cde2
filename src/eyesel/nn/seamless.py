"""Textures: pictures whose left edge fits the right one and whose top fits the bottom.

Every convolution sees the opposite edge where it would see nothing beyond its own, as AUTOMATIC1111's "Tiling" has it.
Nothing else in the networks knows of positions, so a shift of the latents shifts the picture.
"""

from typing import TypeVar

from torch import nn

from eyesel.nn.replica import replica

Model = TypeVar("Model", bound=nn.Module)


def seamless(model: Model) -> Model:
    """A replica whose convolutions wrap around; all weights are shared."""
    other = replica(model)
    for layer in other.modules():
        if isinstance(layer, nn.Conv2d):
            layer.padding_mode = "circular"
    return other
