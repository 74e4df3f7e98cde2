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
) -> Network:
    """`unconditional + guidance * (conditional - unconditional)`; a guidance of 1 is the conditional pass alone."""
    if not math.isfinite(guidance):
        raise SettingError(f"guidance is {guidance}; it must be a finite number, such as 7.5 (1 is no guidance).")
    if guidance == 1:
        return lambda x, t: network(x, t, **conditional)

    both = {name: torch.cat([unconditional[name], conditional[name]]) for name in conditional}

    def guided_network(x: Tensor, t: Tensor) -> Tensor:
        without, with_prompt = network(torch.cat([x, x]), torch.cat([t, t]), **both).chunk(2)
        return without + guidance * (with_prompt - without)

    return guided_network
