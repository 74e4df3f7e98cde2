"""Repainting a part of a picture: two ways to tell the process what stays."""

from collections.abc import Callable

import torch
from torch import Tensor

from eyesel.diffusion.solvers import Denoise


def kept(denoise: Denoise, latents: Tensor, mask: Tensor) -> Denoise:
    """For networks that paint whole pictures: outside the mask, what is expected behind the noise is known.

    `latents` (B or 1, C, h, w) are those of the picture, `mask` (B or 1, 1, h, w) is 1 where it is repainted. A run
    that starts from `latents` under noise then arrives at `latents` outside the mask, with any solver. With those that
    draw no fresh noise it is the blending of diffusers (Avrahami et al. 2022, Blended Latent Diffusion, algorithm 1):
    at every level the latents under the noise that they began with.
    """
    return lambda x, sigma: torch.lerp(latents, denoise(x, sigma), mask)


def shown(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """For networks that were trained to inpaint: each input gets the channels `seen` (B, 1 + C, h, w) behind its own.

    They are the mask and the latents of the picture without what lies under it (Rombach et al. 2022, section 4.5).
    """

    def inpainting(x: Tensor, t: Tensor, seen: Tensor, **conditioning: Tensor) -> Tensor:
        return network(torch.cat([x, seen], dim=1), t, **conditioning)

    return inpainting
