"""From a checkpoint's scheduler_config.json and the name of a solver to a run that gives diffusers' pictures.

A key that the file holds is kept, whatever solver is chosen: betas, spacing and offset belong to the checkpoint. A key
that it does not hold takes the default of the diffusers class that the *chosen* solver stands for, and those defaults
differ (DDIM spaces its timesteps "leading" and clips, Euler "linspace" and never clips). This is what that class's
`from_config` does with the same file. Keys of other solvers mean nothing to the chosen one and are passed over; keys of
its own that ask for mathematics not done here are an error. One key goes further than diffusers: Heun's class does not
know `rescale_betas_zero_snr`, but betas are betas.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from eyesel.diffusion import solvers
from eyesel.diffusion.noise import NoiseSource
from eyesel.diffusion.schedule import (
    SPACINGS,
    NoiseSchedule,
    Schedule,
    check_choice,
    karras_sigmas,
    lcm_timesteps,
    sigmas_at,
    spaced_timesteps,
    timesteps_at,
)
from eyesel.diffusion.solvers import Denoise, Step
from eyesel.errors import SettingError


@dataclass(frozen=True)
class Solver:
    """A solver and the conventions of the diffusers class that it agrees with."""

    run: Callable[..., Iterator[Step]]
    space: Literal["ve", "vp"]  # whether that class keeps x or x / sqrt(sigma^2 + 1): how a run starts and ends
    defaults: Mapping[str, Any]  # of that class, where they differ from BASE or are its own
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # keys with one meaning here: values accepted
    options: tuple[str, ...] = ()  # properties of the plan that `run` takes
    whole: bool = False  # timesteps are whole numbers
    spare: int = 0  # timesteps laid out but not visited, at the low end
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
KARRAS = {"use_karras_sigmas": False, "sigma_min": None, "sigma_max": None}
FINAL = {"final_sigmas_type": "zero"}
CLIP = {"clip_sample": False, "clip_sample_range": 1.0}
LATENT_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}

NO = (False, None)
OTHER_SIGMAS = {"use_exponential_sigmas": NO, "use_beta_sigmas": NO}
MULTISTEP = {
    **OTHER_SIGMAS,
    "use_flow_sigmas": NO,
    "thresholding": NO,
    "solver_order": (2,),
}
DPMPP = Solver(
    solvers.dpmpp_2m,
    space="vp",
    defaults={**KARRAS, **FINAL, "lower_order_final": True, "euler_at_final": False},
    only={
        **MULTISTEP,
        "solver_type": ("midpoint", "logrho", "bh1", "bh2"),  # the names of other classes mean midpoint here
        "use_lu_lambdas": NO,
        "lambda_min_clipped": (-math.inf,),
        "variance_type": (None,),
    },
    options=("lower_order_final", "euler_at_final"),
    whole=True,
    spare=1,
)

SOLVERS: dict[str, Solver] = {
    "euler": Solver(
        solvers.euler,
        space="ve",
        defaults={**KARRAS, **FINAL},
        only={**OTHER_SIGMAS, "interpolation_type": ("linear",), "timestep_type": ("discrete",)},
    ),
    "euler_ancestral": Solver(solvers.euler_ancestral, space="ve", defaults={}),
    "heun": Solver(
        solvers.heun,
        space="ve",
        defaults={**LATENT_BETAS, **KARRAS, **CLIP},
        only=OTHER_SIGMAS,
        options=("clip",),
    ),
    "ddim": Solver(
        solvers.ddim,
        space="vp",
        defaults={**CLIP, "clip_sample": True, "set_alpha_to_one": True, "timestep_spacing": "leading"},
        only={"thresholding": NO},
        options=("clip", "eta"),
        whole=True,
        terminal_alpha_bar=2**-40,  # diffusers takes 0 itself, and this is near enough to it
    ),
    "dpmpp_2m": DPMPP,
    "dpmpp_2m_sde": replace(DPMPP, run=solvers.dpmpp_2m_sde),
    "unipc": Solver(
        solvers.unipc,
        space="vp",
        defaults={**KARRAS, **FINAL},
        only={
            **MULTISTEP,
            "solver_type": ("bh2", "midpoint", "heun", "logrho"),  # likewise
            "lower_order_final": (True,),
            "predict_x0": (True,),
            "disable_corrector": ([], None),
            "solver_p": (None,),
        },
        whole=True,
        spare=1,
    ),
    "lcm": Solver(
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
        whole=True,
        terminal_alpha_bar=2**-40,
    ),
}

# The solver that a checkpoint asks for. PNDM, which Stable Diffusion 1 ships, and DDPM are not done here: DDIM visits
# the same timesteps. A None needs an explicit choice. Any other class (flow matching, EDM) trains on other mixtures of
# picture and noise.
OWN_SOLVER: dict[str, str | None] = {
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddim",
    "PNDMScheduler": "ddim",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "unipc",
    "LCMScheduler": "lcm",
    "DEISMultistepScheduler": None,
    "DPMSolverSDEScheduler": None,
    "DPMSolverSinglestepScheduler": None,
    "KDPM2AncestralDiscreteScheduler": None,
    "KDPM2DiscreteScheduler": None,
    "LMSDiscreteScheduler": None,
    "TCDScheduler": None,
}
DPM_ALGORITHMS = {"dpmsolver++": "dpmpp_2m", "sde-dpmsolver++": "dpmpp_2m_sde"}


@dataclass(frozen=True)
class Plan:
    """A solver on a checkpoint's noise schedule; the fields are named as in scheduler_config.json."""

    solver: str
    training: NoiseSchedule
    timestep_spacing: str = "linspace"
    steps_offset: int = 0
    use_karras_sigmas: bool = False
    sigma_min: float | None = None  # of the Karras sigmas
    sigma_max: float | None = None
    final_sigmas_type: str = "zero"
    set_alpha_to_one: bool = True
    lower_order_final: bool = True
    euler_at_final: bool = False
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    original_inference_steps: int = 50
    timestep_scaling: float = 10.0
    eta: float = 0.0

    def __post_init__(self) -> None:
        check_choice("solver", self.solver, tuple(SOLVERS))
        check_choice("timestep_spacing", self.timestep_spacing, SPACINGS)
        check_choice("final_sigmas_type", self.final_sigmas_type, ("zero", "sigma_min"))
        if not isinstance(self.steps_offset, int) or self.steps_offset < 0:
            raise SettingError(f"steps_offset is {self.steps_offset!r}; it must be a whole number from 0 up.")
        if not 0 <= self.eta <= 1:
            raise SettingError(f"eta is {self.eta}; it must lie between 0 (no fresh noise) and 1.")
        if self.eta and self.solver != "ddim":
            raise SettingError(
                f"eta is {self.eta}, but the solver {self.solver} has none; choose the solver ddim, or eta 0."
            )
        for name in ("sigma_min", "sigma_max", "clip_sample_range"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingError(f"{name} is {value}; it must be positive.")
        if not 1 <= self.original_inference_steps <= self.training.num_train_timesteps:
            raise SettingError(
                f"original_inference_steps is {self.original_inference_steps}; "
                f"it must lie between 1 and {self.training.num_train_timesteps}."
            )

    @property
    def clip(self) -> float | None:
        return self.clip_sample_range if self.clip_sample else None

    @property
    def most_steps(self) -> int:
        return self.original_inference_steps if self.solver == "lcm" else self.training.num_train_timesteps

    def schedule(self, steps: int) -> Schedule:
        """The noise levels of a run of exactly `steps` steps."""
        if not isinstance(steps, int) or not 1 <= steps <= self.most_steps:
            raise SettingError(
                f"steps is {steps!r}; the solver {self.solver} takes from 1 to {self.most_steps} of them."
            )
        solver, total = SOLVERS[self.solver], self.training.num_train_timesteps
        levels = self.training.sigmas(solver.terminal_alpha_bar)

        if self.solver == "lcm":
            timesteps = lcm_timesteps(steps, total, self.original_inference_steps)
        else:
            timesteps = spaced_timesteps(self.timestep_spacing, steps, total, self.steps_offset, solver.spare)
        if timesteps[0] > total - 1:
            raise SettingError(
                f"{steps} steps with a steps_offset of {self.steps_offset} start at timestep {timesteps[0]:.0f}, "
                f"beyond the last one, {total - 1}; take fewer steps."
            )
        timesteps = timesteps.round() if solver.whole else timesteps.float().double()
        sigmas = sigmas_at(timesteps, levels)

        if self.use_karras_sigmas:
            # Multistep classes stretch them over all training levels, Euler and Heun over the levels that the spacing
            # would visit.
            highest, lowest = (levels[-1], levels[0]) if solver.spare else (sigmas[0], sigmas[-1])
            sigmas = karras_sigmas(
                highest.item() if self.sigma_max is None else self.sigma_max,
                lowest.item() if self.sigma_min is None else self.sigma_min,
                steps,
            )
            timesteps = timesteps_at(sigmas, levels)
            if solver.whole:  # diffusers' DPM-Solver++ truncates them when the betas are a cosine's; not here
                timesteps = timesteps.round()

        if not bool((sigmas[1:] < sigmas[:-1]).all()):
            raise SettingError(
                f"steps is {steps}, more noise levels than {self.timestep_spacing} spacing tells apart; take fewer."
            )

        ends_clean = self.set_alpha_to_one and self.final_sigmas_type == "zero"
        final = torch.zeros(()) if ends_clean else torch.minimum(levels[0].double(), sigmas[-1])
        arrivals = torch.cat([sigmas[1:], final.double().reshape(1)])
        if self.solver == "ddim":
            targets = timesteps.long() - total // steps
            arrivals = torch.where(targets >= 0, levels[targets.clamp(min=0)].double(), final.double())
        return Schedule(
            sigmas=torch.cat([sigmas, arrivals[-1:]]).float(),
            timesteps=timesteps.float(),
            arrivals=arrivals.float(),
            levels=levels,
            prediction_type=self.training.prediction_type,
        )

    def start(self, noise: Tensor, schedule: Schedule) -> Tensor:
        """The x of a run that starts from nothing but noise of variance 1."""
        sigma = schedule.sigmas[0].item()
        if SOLVERS[self.solver].space == "ve" and self.timestep_spacing != "leading":
            return noise * sigma  # diffusers: as if the picture had no variance of its own
        return noise * math.sqrt(sigma**2 + 1)

    def solve(self, denoise: Denoise, x: Tensor, schedule: Schedule, noise: NoiseSource) -> Iterator[Step]:
        """The steps of a run from x; the x of the last one is the latent to decode."""
        solver = SOLVERS[self.solver]
        options = {name: getattr(self, name) for name in solver.options}
        for step in solver.run(denoise, x, schedule, noise, **options):
            if solver.space == "vp" and step.index == len(schedule) - 1:
                step = replace(step, x=step.x / math.sqrt(step.sigma**2 + 1))
            yield step


def own_solver(config: Mapping[str, Any]) -> str:
    """The solver that the checkpoint itself asks for."""
    name = config.get("_class_name")
    solver = OWN_SOLVER.get(str(name))
    if solver is None:
        raise SettingError(
            f"The checkpoint's scheduler is {name}, which eyesel lacks; choose one of {', '.join(SOLVERS)}."
        )
    if solver == "dpmpp_2m":
        algorithm = config.get("algorithm_type", "dpmsolver++")
        check_choice("algorithm_type", algorithm, tuple(DPM_ALGORITHMS))
        return DPM_ALGORITHMS[algorithm]
    return solver


def from_scheduler_config(config: Mapping[str, Any], solver: str | None = None, eta: float = 0.0) -> Plan:
    """The plan for `solver` (None: the checkpoint's own) on a checkpoint whose scheduler_config.json holds `config`."""
    trained_for = config.get("_class_name")
    if trained_for is not None and trained_for not in OWN_SOLVER:
        raise SettingError(
            f"The checkpoint's scheduler is {trained_for}; "
            f"eyesel knows checkpoints trained for one of {', '.join(OWN_SOLVER)}."
        )
    name = own_solver(config) if solver is None else solver
    check_choice("solver", name, tuple(SOLVERS))
    chosen = SOLVERS[name]
    for key, accepted in chosen.only.items():
        if key in config and config[key] not in accepted:
            raise SettingError(
                f"The scheduler config sets {key} to {config[key]!r}; the solver {name} does only "
                f"{' or '.join(map(str, accepted))} (another solver may not need it: {', '.join(SOLVERS)})."
            )
    known = {**BASE, **chosen.defaults}
    settings = {key: config.get(key, default) for key, default in known.items()}
    trained = {entry.name: settings.pop(entry.name) for entry in fields(NoiseSchedule)}
    if trained["trained_betas"] is not None:
        trained["trained_betas"] = tuple(trained["trained_betas"])
    return Plan(solver=name, training=NoiseSchedule(**trained), eta=eta, **settings)
