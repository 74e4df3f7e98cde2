"""Classifier-free guidance (Ho & Salimans 2022): go further in the direction in which the prompt moves the prediction.

The network here is `network(x, t, **conditioning)`; what comes back is the bare `network(x, t)` that a `Denoiser`
takes. Guidance acts on the raw prediction, before it becomes a picture, as diffusers does it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from eyesel.errors import SettingError

Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Composition:
    """Several conditionals for one image (Liu et al. 2022, "Compositional Visual Generation", equation 11).

    Row r of the conditional inputs speaks for image `images[r]`, and what it changes counts `weights[r]` times.
    """

    images: Tensor  # (R,) int64
    weights: Tensor  # (R,) float32

    def together(self, without: Tensor, each: Tensor) -> Tensor:
        """One conditional prediction an image: `without + sum of weight * (each - without)`."""
        change = self.weights.reshape(-1, 1, 1, 1) * (each - without[self.images])
        return without.index_add(0, self.images, change)


def guided(
    network: Callable[..., Tensor],
    conditional: Mapping[str, Tensor],
    unconditional: Mapping[str, Tensor],
    guidance: float,
    rescale: float = 0.0,
    composition: Composition | None = None,
) -> Network:
    """`unconditional + guidance * (conditional - unconditional)`; guidance of 1 is the conditional pass alone.

    A guidance of 0 is none, too: so diffusers has it, and the recipes of turbo and LCM checkpoints write it.

    `rescale` is phi of `rescaled`. Without a `composition`, row i of the conditional inputs belongs to image i.
    """
    if not isinstance(guidance, int | float) or not math.isfinite(guidance):
        raise SettingError(f"guidance is {guidance!r}; it must be a finite number, such as 7.5 (1 is no guidance).")
    if not 0 <= rescale <= 1:
        raise SettingError(f"guidance_rescale is {rescale}; it must lie between 0 (none) and 1, such as 0.7.")
    guidance = guidance or 1
    if guidance == 1 and composition is None:
        return lambda x, t: network(x, t, **conditional)

    both = {name: torch.cat([unconditional[name], conditional[name]]) for name in conditional}

    def guided_network(x: Tensor, t: Tensor) -> Tensor:
        images = slice(None) if composition is None else composition.images
        prediction = network(torch.cat([x, x[images]]), torch.cat([t, t[images]]), **both)
        without, with_prompt = prediction[: len(x)], prediction[len(x) :]
        if composition is not None:
            with_prompt = composition.together(without, with_prompt)
        result = without + guidance * (with_prompt - without)
        return rescaled(result, with_prompt, rescale) if rescale else result

    return guided_network


def rescaled(guided: Tensor, conditional: Tensor, phi: float) -> Tensor:
    """Lin et al. 2024, equations 14 to 16: of what guidance adds in contrast, take the share phi away again."""
    axes = tuple(range(1, guided.ndim))
    ratio = conditional.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
    return (phi * ratio + (1 - phi)) * guided


def within(
    interval: tuple[float, float] | None,
    inside: Callable[[Tensor, float], Tensor],
    outside: Callable[[Tensor, float], Tensor],
) -> Callable[[Tensor, float], Tensor]:
    """`inside` at the noise levels low < sigma <= high, `outside` at the others; None is all of them.

    With a guided denoiser inside and the conditional one outside this is guidance in a limited interval (Kynkäänniemi
    et al. 2024, equation 6): better pictures, and half the cost outside it.
    """
    if interval is None:
        return inside
    low, high = interval
    if not 0 <= low < high:
        raise SettingError(
            f"guidance_interval is {low:g} to {high:g}; "
            "it must rise from a noise level of 0 or more to a higher one, such as 0.28 to 5.42."
        )
    return lambda x, sigma: inside(x, sigma) if low < sigma <= high else outside(x, sigma)
