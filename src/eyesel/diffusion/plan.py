"""From a checkpoint's scheduler_config.json and the name of a solver to a run that gives diffusers' pictures.

A key that the file holds is kept, whatever solver is chosen: betas, spacing and offset belong to the checkpoint. A key
that it does not hold takes the default of the diffusers class that the *chosen* solver stands for, and those defaults
differ (DDIM spaces its timesteps "leading" and clips, Euler "linspace" and never clips). This is what that class's
`from_config` does with the same file. Keys of other solvers mean nothing to the chosen one and are passed over; keys of
its own that ask for mathematics not done here are an error. Two things go further than diffusers:
`rescale_betas_zero_snr` holds for every solver, because betas are betas, and every solver takes every schedule.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from eyesel.diffusion.aliases import named_schedule, named_solver
from eyesel.diffusion.catalogue import BASE, DPM_ALGORITHMS, OWN_SOLVER, SOLVERS, USE_SIGMAS
from eyesel.diffusion.noise import NoiseSource
from eyesel.diffusion.schedule import NoiseSchedule, Schedule, check_choice, sigmas_at, timesteps_at
from eyesel.diffusion.solvers import Denoise, Step
from eyesel.diffusion.spacing import PICKED, SCHEDULES, SPACINGS, STRETCHED, distilled_timesteps, spaced_timesteps
from eyesel.errors import SettingError
from eyesel.fields import Count, check_fields


@dataclass(frozen=True)
class Plan:
    """A solver on a checkpoint's noise schedule; the fields below `spread` are those of scheduler_config.json."""

    solver: str
    training: NoiseSchedule
    spread: str | None = None  # the schedule asked for, one of SCHEDULES; None: as `timestep_spacing` has it
    timestep_spacing: str = "linspace"
    steps_offset: Count = 0
    sigma_min: float | None = None  # of the STRETCHED schedules
    sigma_max: float | None = None
    final_sigmas_type: str = "zero"
    set_alpha_to_one: bool = True
    lower_order_final: bool = True
    euler_at_final: bool = False
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    original_inference_steps: int = 50
    timestep_scaling: float = 10.0
    eta: float | None = None  # None: the solver's own

    def __post_init__(self) -> None:
        check_choice("solver", self.solver, tuple(SOLVERS))
        check_choice("schedule", self.spread, (None, *SCHEDULES))
        check_choice("timestep_spacing", self.timestep_spacing, SPACINGS)
        check_choice("final_sigmas_type", self.final_sigmas_type, ("zero", "sigma_min"))
        check_fields(self, SettingError)
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise SettingError(f"eta is {self.eta}; it must lie between 0 (no fresh noise) and 1.")
        if self.eta and SOLVERS[self.solver].eta is None:
            noisy = ", ".join(name for name, solver in SOLVERS.items() if solver.eta is not None)
            raise SettingError(
                f"eta is {self.eta}, but the solver {self.solver} has none; choose eta 0, or one of {noisy}."
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
    def spacing(self) -> str:
        return self.spread if self.spread in SPACINGS else self.timestep_spacing

    @property
    def distilled(self) -> bool:
        """Whether the run keeps to the timesteps that a consistency model was distilled on."""
        return SOLVERS[self.solver].distilled and self.spread is None

    @property
    def most_steps(self) -> int:
        return self.original_inference_steps if self.distilled else self.training.num_train_timesteps

    def schedule(self, steps: int, strength: float = 1.0) -> Schedule:
        """The noise levels of a run of exactly `steps` steps, or the last `steps * strength` of them, rounded down.

        `strength` is how much of a picture is to be made anew (Meng et al. 2022, SDEdit), counted as diffusers does.
        """
        if not isinstance(steps, int) or not 1 <= steps <= self.most_steps:
            raise SettingError(
                f"steps is {steps!r}; the solver {self.solver} takes from 1 to {self.most_steps} of them."
            )
        if not 0 < strength <= 1:
            raise SettingError(f"strength is {strength:g}; it must be above 0 (no change) and at most 1 (all anew).")
        if int(steps * strength) < 1:
            least = math.ceil(100 / steps) / 100
            raise SettingError(
                f"A strength of {strength:g} leaves none of {steps} steps: take at least {least:g}, or more steps."
            )
        levels = self.training.sigmas(SOLVERS[self.solver].terminal_alpha_bar)
        timesteps, sigmas = self._visited(steps, levels)
        if not bool((sigmas[1:] < sigmas[:-1]).all()):
            raise SettingError(
                f"steps is {steps}, more noise levels than {self.spread or self.spacing} spacing tells apart; "
                "take fewer."
            )

        ends_clean = self.set_alpha_to_one and self.final_sigmas_type == "zero"
        final = torch.zeros(()) if ends_clean else torch.minimum(levels[0].double(), sigmas[-1])
        arrivals = torch.cat([sigmas[1:], final.double().reshape(1)])
        if self.solver == "ddim" and self.spread in (None, *SPACINGS):
            targets = timesteps.long() - self.training.num_train_timesteps // steps
            arrivals = torch.where(targets >= 0, levels[targets.clamp(min=0)].double(), final.double())
        return Schedule(
            sigmas=torch.cat([sigmas, arrivals[-1:]]).float(),
            timesteps=timesteps.float(),
            arrivals=arrivals.float(),
            levels=levels,
            prediction_type=self.training.prediction_type,
            planned=steps,
        ).last(int(steps * strength))

    def _visited(self, steps: int, levels: Tensor) -> tuple[Tensor, Tensor]:
        """The timesteps and sigmas at which the network is asked, float64, descending."""
        solver = SOLVERS[self.solver]
        if self.spread in PICKED:
            sigmas = PICKED[self.spread](levels, steps)
        elif self.spread in STRETCHED:
            # Classes that keep the variance stretch them over all training levels, the others over the levels that
            # the spacing would visit.
            reach = levels.flip(0) if solver.space == "vp" else sigmas_at(self._spaced(steps), levels)
            sigmas = STRETCHED[self.spread](
                reach[0].item() if self.sigma_max is None else self.sigma_max,
                reach[-1].item() if self.sigma_min is None else self.sigma_min,
                steps,
            )
        else:
            timesteps = self._spaced(steps)
            return timesteps, sigmas_at(timesteps, levels)
        timesteps = timesteps_at(sigmas, levels)
        if solver.whole == "always" or solver.whole == self.spread:
            timesteps = timesteps.round()  # diffusers truncates some of them; here the nearest is taken
        return timesteps, sigmas

    def _spaced(self, steps: int) -> Tensor:
        """(steps,) float64, descending: timesteps as `spacing` lays them out."""
        solver, total = SOLVERS[self.solver], self.training.num_train_timesteps
        if self.distilled:
            return distilled_timesteps(steps, total, self.original_inference_steps)
        timesteps = spaced_timesteps(self.spacing, steps, total, self.steps_offset, solver.spare)
        if timesteps[0] > total - 1:
            raise SettingError(
                f"{steps} steps with a steps_offset of {self.steps_offset} start at timestep {timesteps[0]:.0f}, "
                f"beyond the last one, {total - 1}; take fewer steps."
            )
        return timesteps.round() if solver.whole == "always" else timesteps.float().double()

    def start(self, noise: Tensor, schedule: Schedule) -> Tensor:
        """The x of a run that starts from nothing but noise of variance 1."""
        sigma = schedule.sigmas[0].item()
        if SOLVERS[self.solver].space == "ve" and self.spacing != "leading":
            return noise * sigma  # diffusers: as if the picture had no variance of its own
        return noise * math.sqrt(sigma**2 + 1)

    def resume(self, latents: Tensor, noise: Tensor, schedule: Schedule) -> Tensor:
        """The x of a run that starts from latents, under as much noise as its first level has."""
        return latents + schedule.sigmas[0].item() * noise

    def solve(self, denoise: Denoise, x: Tensor, schedule: Schedule, noise: NoiseSource) -> Iterator[Step]:
        """The steps of a run from x; the x of the last one is the latent to decode."""
        solver = SOLVERS[self.solver]
        options = {name: getattr(self, name) for name in solver.options}
        if solver.eta is not None:
            options["eta"] = solver.eta if self.eta is None else self.eta
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


def asked_sigmas(config: Mapping[str, Any]) -> str | None:
    """The schedule that the file asks for by one of its `use_..._sigmas`."""
    asked = [name for name, key in USE_SIGMAS.items() if config[key]]
    if len(asked) > 1:
        raise SettingError(f"The scheduler config asks for {' and '.join(asked)} sigmas at once; keep one of them.")
    return asked[0] if asked else None


def from_scheduler_config(
    config: Mapping[str, Any],
    solver: str | None = None,
    eta: float | None = None,
    schedule: str | None = None,
    xl: bool = False,
) -> Plan:
    """The plan for `solver` (None: the checkpoint's own) on a checkpoint whose scheduler_config.json holds `config`.

    `schedule` (None: the checkpoint's own) says which noise levels are visited. Both go by the names of AUTOMATIC1111,
    ComfyUI and diffusers, too. `xl` is for SDXL networks, for which align_your_steps has a table of its own.
    """
    trained_for = config.get("_class_name")
    if trained_for is not None and str(trained_for) not in OWN_SOLVER:
        raise SettingError(
            f"The checkpoint's scheduler is {trained_for}; "
            f"eyesel knows checkpoints trained for one of {', '.join(OWN_SOLVER)}."
        )
    name, spread = (own_solver(config), None) if solver is None else named_solver(solver)
    if schedule is not None and spread is not None and named_schedule(schedule) != spread:
        raise SettingError(f"The solver {solver!r} names another schedule than {schedule!r}; leave one of them out.")
    spread = spread or named_schedule(schedule)

    chosen = SOLVERS[name]
    for key, accepted in chosen.only.items():
        if key in config and config[key] not in accepted:
            raise SettingError(
                f"The scheduler config sets {key} to {config[key]!r}; the solver {name} does only "
                f"{' or '.join(map(str, accepted))} (another solver may not need it: {', '.join(SOLVERS)})."
            )
    known = {**BASE, **chosen.defaults}
    settings = {**{key: config.get(key, default) for key, default in known.items()}, **chosen.fixed}
    for key, default in known.items():
        if settings[key] is None and isinstance(default, bool):
            settings[key] = False  # a flag that is null is off
    trained = {entry.name: settings.pop(entry.name) for entry in fields(NoiseSchedule)}
    if isinstance(trained["trained_betas"], list):
        trained["trained_betas"] = tuple(trained["trained_betas"])
    asked = asked_sigmas({key: settings.pop(key, False) for key in USE_SIGMAS.values()})
    spread = spread or asked
    if spread == "align_your_steps" and xl:
        spread = "align_your_steps_xl"
    return Plan(solver=name, training=NoiseSchedule(**trained), spread=spread, eta=eta, **settings)
