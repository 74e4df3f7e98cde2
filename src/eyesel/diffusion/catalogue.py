"""The solvers by name, each with the conventions of the diffusers class that it agrees with."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from eyesel.diffusion import solvers
from eyesel.diffusion.solvers import Step
from eyesel.diffusion.spacing import STRETCHED


@dataclass(frozen=True)
class Solver:
    """A solver and the conventions of the diffusers class that it agrees with."""

    run: Callable[..., Iterator[Step]]
    space: Literal["ve", "vp"]  # whether that class keeps x or x / sqrt(sigma^2 + 1): how a run starts and ends
    defaults: Mapping[str, Any]  # of that class, where they differ from BASE or are its own
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # keys with one meaning here: values accepted
    fixed: Mapping[str, Any] = field(default_factory=dict)  # fields of the plan on which the file has no say
    options: tuple[str, ...] = ()  # properties of the plan that `run` takes
    eta: float | None = None  # the share of fresh noise unless the caller says otherwise; None: it takes none
    whole: Literal["never", "karras", "always"] = "never"  # when the network hears only of whole timesteps
    spare: int = 0  # timesteps laid out but not visited, at the low end
    distilled: bool = False  # for consistency models, which know some timesteps only
    terminal_alpha_bar: float = 2**-24  # diffusers' stand-in for 0 when betas are rescaled to zero terminal SNR


BASE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
    "timestep_spacing": "linspace",
    "steps_offset": 0,
}
USE_SIGMAS = {name: f"use_{name}_sigmas" for name in STRETCHED}  # the key that asks for a schedule
SIGMAS = dict.fromkeys(USE_SIGMAS.values(), False)
RANGE = {"sigma_min": None, "sigma_max": None}
FINAL = {"final_sigmas_type": "zero"}
CLIP = {"clip_sample": False, "clip_sample_range": 1.0}
LATENT_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
NEAR_ZERO = 2**-40  # where diffusers takes an alpha_bar of 0 itself

NO = (False, None)
MULTISTEP = {"use_flow_sigmas": NO, "thresholding": NO, "solver_order": (2,)}
DPM2 = Solver(solvers.dpm2, space="ve", defaults={**LATENT_BETAS, **SIGMAS, **RANGE}, whole="karras")
DPMPP = Solver(
    solvers.dpmpp_2m,
    space="vp",
    defaults={**SIGMAS, **RANGE, **FINAL, "lower_order_final": True, "euler_at_final": False},
    only={
        **MULTISTEP,
        "solver_type": ("midpoint", "logrho", "bh1", "bh2"),  # the names of other classes mean midpoint here
        "use_lu_lambdas": NO,
        "lambda_min_clipped": (-math.inf,),
        "variance_type": (None, "fixed_small", "fixed_large"),  # DDPM's; a learned one is more for the network to say
    },
    options=("lower_order_final", "euler_at_final"),
    whole="always",
    spare=1,
)
DPMPP_SDE = Solver(solvers.dpmpp_sde, space="ve", defaults={**LATENT_BETAS, **SIGMAS}, eta=1.0)
LCM = Solver(
    solvers.lcm,
    space="vp",
    defaults={
        **LATENT_BETAS,
        **CLIP,
        "beta_schedule": "scaled_linear",
        "timestep_spacing": "leading",
        "original_inference_steps": 50,
        "timestep_scaling": 10.0,
    },
    only={"thresholding": NO},
    options=("clip", "timestep_scaling"),
    whole="always",
    distilled=True,
    terminal_alpha_bar=NEAR_ZERO,
)

SOLVERS: dict[str, Solver] = {
    "euler": Solver(
        solvers.euler,
        space="ve",
        defaults={**SIGMAS, **RANGE, **FINAL},
        only={"interpolation_type": ("linear",), "timestep_type": ("discrete",)},
    ),
    "euler_ancestral": Solver(solvers.euler, space="ve", defaults={}, eta=1.0),
    "heun": Solver(
        solvers.heun,
        space="ve",
        defaults={**LATENT_BETAS, **SIGMAS, **RANGE, **CLIP},
        options=("clip",),
    ),
    "lms": Solver(solvers.lms, space="ve", defaults=SIGMAS),
    "dpm2": DPM2,
    "dpm2_ancestral": replace(DPM2, eta=1.0),
    "dpmpp_2s_ancestral": replace(DPMPP_SDE, run=solvers.dpmpp_2s),  # which diffusers lacks
    "dpmpp_sde": DPMPP_SDE,
    "dpmpp_2m": DPMPP,
    "dpmpp_2m_sde": replace(DPMPP, eta=1.0),
    "unipc": Solver(
        solvers.unipc,
        space="vp",
        defaults={**SIGMAS, **RANGE, **FINAL},
        only={
            **MULTISTEP,
            "solver_type": ("bh2", "midpoint", "heun", "logrho"),  # likewise
            "lower_order_final": (True,),
            "predict_x0": (True,),
            "disable_corrector": ([], None),
            "solver_p": (None,),
        },
        whole="always",
        spare=1,
    ),
    "deis": Solver(
        solvers.deis,
        space="vp",
        defaults={**SIGMAS, **RANGE, "lower_order_final": True},
        only={
            **MULTISTEP,
            "solver_type": ("logrho", "midpoint", "heun", "bh1", "bh2"),  # likewise
            "algorithm_type": ("deis", "dpmsolver", "dpmsolver++"),
            "use_dynamic_shifting": NO,
        },
        fixed={"final_sigmas_type": "sigma_min"},
        options=("lower_order_final",),
        whole="always",
        spare=1,
    ),
    "ddim": Solver(
        solvers.ddim,
        space="vp",
        defaults={**CLIP, "clip_sample": True, "set_alpha_to_one": True, "timestep_spacing": "leading"},
        only={"thresholding": NO},
        options=("clip",),
        eta=0.0,
        whole="always",
        terminal_alpha_bar=NEAR_ZERO,
    ),
    "ddpm": Solver(
        solvers.euler,
        space="vp",
        defaults={**CLIP, "clip_sample": True, "timestep_spacing": "leading"},
        only={"thresholding": NO, "variance_type": ("fixed_small", None)},
        options=("clip",),
        eta=1.0,
        whole="always",
        terminal_alpha_bar=NEAR_ZERO,
    ),
    "pndm": Solver(
        solvers.pndm,
        space="vp",
        defaults={"set_alpha_to_one": False, "timestep_spacing": "leading"},
        only={"skip_prk_steps": (True,)},
        whole="always",
    ),
    "lcm": LCM,
    "tcd": replace(
        LCM,
        run=solvers.tcd,
        only={},
        fixed={"final_sigmas_type": "sigma_min"},
        options=(),
        eta=0.3,
    ),
}

# The solver that a checkpoint asks for. A None needs an explicit choice. Any other class (flow matching, EDM) trains on
# other mixtures of picture and noise.
OWN_SOLVER: dict[str, str | None] = {
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
    "LMSDiscreteScheduler": "lms",
    "KDPM2DiscreteScheduler": "dpm2",
    "KDPM2AncestralDiscreteScheduler": "dpm2_ancestral",
    "DPMSolverSDEScheduler": "dpmpp_sde",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "unipc",
    "DEISMultistepScheduler": "deis",
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "PNDMScheduler": "pndm",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
    "DPMSolverSinglestepScheduler": None,
}
DPM_ALGORITHMS = {"dpmsolver++": "dpmpp_2m", "sde-dpmsolver++": "dpmpp_2m_sde"}
