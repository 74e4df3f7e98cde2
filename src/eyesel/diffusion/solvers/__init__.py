"""Solvers: from noise to a picture, one noise level after another.

Each is a generator `solver(denoise, x, schedule, noise)`: `denoise(x, sigma)` is the picture expected behind the noise,
x starts at `x_0 + sigma_0 epsilon` (float32), `noise` is where fresh noise is drawn, and after every step a `Step` is
handed to the caller, who shows a preview, counts, or stops. All work on x = x_0 + sigma epsilon, where the probability
flow is `dx/dsigma = (x - D(x, sigma)) / sigma` (Karras et al. 2022, equation 3). If D stayed the same, the exact answer
would be `x_next = D + (sigma_next / sigma) (x - D)`, or `lerp(D, x, sigma_next / sigma)`: no cancellation however large
sigma is. Every solver here is this line with a better guess for D, or with fresh noise in place of some of the old:

    onestep      D at the start of the step          euler (and its ancestral form, which is DDPM), ddim, lcm, tcd
    midpoint     D once more within the step         heun, dpm2, dpmpp_2s, dpmpp_sde
    multistep    D of earlier steps                  dpmpp_2m, dpmpp_2m_sde, unipc, deis, lms, pndm

`eta` is the share of the noise that is drawn anew: 0 follows the flow, 1 the reverse-time diffusion.
"""

from eyesel.diffusion.solvers.midpoint import dpm2, dpmpp_2s, dpmpp_sde, heun
from eyesel.diffusion.solvers.multistep import deis, dpmpp_2m, lms, pndm, unipc
from eyesel.diffusion.solvers.onestep import ddim, euler, lcm, tcd
from eyesel.diffusion.solvers.step import Denoise, Step

__all__ = [
    "Denoise",
    "Step",
    "ddim",
    "deis",
    "dpm2",
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_sde",
    "euler",
    "heun",
    "lcm",
    "lms",
    "pndm",
    "tcd",
    "unipc",
]
