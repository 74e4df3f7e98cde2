"""Classifier-free guidance (Ho & Salimans 2022): go further in the direction in which the prompt moves the prediction.

The network here is `network(x, t, **conditioning)`; what comes back is the bare `network(x, t)` that a `Denoiser`
takes. Guidance acts on the raw prediction, before it becomes a picture, as diffusers does it.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from eyesel.errors import SettingError

Network = Callable[[Tensor, Tensor], Tensor]


def guided(
    network: Callable[..., Tensor],
    conditional: Mapping[str, Tensor],
    unconditional: Mapping[str, Tensor],
    guidance: float,
    rescale: float = 0.0,
) -> Network:
    """`unconditional + guidance * (conditional - unconditional)`; guidance of 1 is the conditional pass alone.

    `rescale` is phi of `rescaled`.
    """
    if not math.isfinite(guidance):
        raise SettingError(f"guidance is {guidance}; it must be a finite number, such as 7.5 (1 is no guidance).")
    if not 0 <= rescale <= 1:
        raise SettingError(f"guidance_rescale is {rescale}; it must lie between 0 (none) and 1, such as 0.7.")
    if guidance == 1:
        return lambda x, t: network(x, t, **conditional)

    both = {name: torch.cat([unconditional[name], conditional[name]]) for name in conditional}

    def guided_network(x: Tensor, t: Tensor) -> Tensor:
        without, with_prompt = network(torch.cat([x, x]), torch.cat([t, t]), **both).chunk(2)
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
