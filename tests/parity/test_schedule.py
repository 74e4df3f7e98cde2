"""Noise levels and timesteps against diffusers, for every number of steps that people use."""

import math
from typing import Any

import diffusers
import pytest
import torch

from eyesel.diffusion import SOLVERS, NoiseSchedule, Plan, from_scheduler_config
from eyesel.errors import SettingError

CLASSES = {
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "ddim": "DDIMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "deis": "DEISMultistepScheduler",
    "ddpm": "DDPMScheduler",
    "lcm": "LCMScheduler",
    "tcd": "TCDScheduler",
}
SPACINGS = ("leading", "linspace", "trailing")
LATENT: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        LATENT,
        {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
    ],
    ids=["scaled_linear", "linear", "cosine"],
)
def test_training_noise_is_that_of_diffusers(settings: dict[str, Any], rescale: bool) -> None:
    theirs = diffusers.DDIMScheduler(**settings, rescale_betas_zero_snr=rescale)
    ours = NoiseSchedule(**settings, rescale_betas_zero_snr=rescale)
    assert torch.equal(ours.betas, theirs.betas)
    assert torch.equal(ours.alphas_cumprod, theirs.alphas_cumprod)
    assert (ours.alphas_cumprod[-1] == 0) == rescale


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("solver", CLASSES)
def test_timesteps_are_those_of_diffusers(solver: str, spacing: str) -> None:
    config = {**LATENT, "timestep_spacing": spacing, "steps_offset": 1}
    theirs = getattr(diffusers, CLASSES[solver])(**config)
    plan = from_scheduler_config(config, solver)
    for steps in range(1, min(100, plan.most_steps) + 1):
        theirs.set_timesteps(steps)
        # Under trailing spacing float rounding gives diffusers one timestep too many, of -1, for 61 steps.
        assert torch.equal(plan.schedule(steps).timesteps, theirs.timesteps[:steps].float()), steps


@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_exactly_the_promised_number_of_steps(solver: str, spacing: str, karras: bool) -> None:
    config = {**LATENT, "timestep_spacing": spacing, "steps_offset": 1, "use_karras_sigmas": karras}
    plan = from_scheduler_config(config, solver)
    for steps in range(1, min(100, plan.most_steps) + 1):
        schedule = plan.schedule(steps)
        assert len(schedule) == len(schedule.timesteps) == len(schedule.arrivals) == steps
        assert len(schedule.sigmas) == steps + 1
        assert (schedule.sigmas[1:-1] < schedule.sigmas[:-2]).all()
        assert schedule.sigmas[-1] <= schedule.sigmas[-2]  # DEIS with Karras sigmas stays where it is, as in diffusers
        assert schedule.sigmas.dtype == schedule.timesteps.dtype == torch.float32


def test_a_schedule_knows_the_timestep_of_any_sigma() -> None:
    schedule = from_scheduler_config(LATENT, "euler").schedule(7)
    for sigma, timestep in zip(schedule.sigmas.tolist()[:-1], schedule.timesteps.tolist(), strict=True):
        assert schedule.timestep(sigma) == timestep
    between = math.sqrt(schedule.levels[500].item() * schedule.levels[501].item())
    assert schedule.timestep(between) == pytest.approx(500.5, abs=1e-3)
    assert schedule.timestep(1e9) == 999
    assert schedule.timestep(1e-9) == 0


def test_zero_terminal_snr_starts_at_a_finite_sigma() -> None:
    for solver in SOLVERS:
        config = {**LATENT, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        assert 4000 < from_scheduler_config(config, solver).schedule(5).sigmas[0] < math.inf


def test_absent_keys_take_the_defaults_of_the_chosen_solver() -> None:
    config = {"_class_name": "PNDMScheduler", "steps_offset": 1}
    ddim, euler, lcm = (from_scheduler_config(config, solver) for solver in ("ddim", "euler", "lcm"))
    assert (ddim.timestep_spacing, ddim.clip, ddim.steps_offset) == ("leading", 1.0, 1)
    assert (euler.timestep_spacing, euler.clip, euler.steps_offset) == ("linspace", None, 1)
    assert (lcm.training.beta_schedule, ddim.training.beta_schedule) == ("scaled_linear", "linear")


@pytest.mark.parametrize(
    ("config", "solver", "message"),
    [
        ({}, "eulerr", "solver is 'eulerr'; the nearest names are euler, "),
        ({"_class_name": "DPMSolverSinglestepScheduler"}, None, "DPMSolverSinglestepScheduler.*choose one of euler"),
        ({}, None, "None.*choose one of euler"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "euler", "FlowMatchEulerDiscreteScheduler"),
        ({"prediction_type": "flow_prediction"}, "euler", "prediction_type is 'flow_prediction'.*epsilon"),
        ({"beta_schedule": "sigmoid"}, "euler", "beta_schedule is 'sigmoid'.*scaled_linear"),
        ({"timestep_spacing": "even"}, "ddim", "timestep_spacing is 'even'.*trailing"),
        ({"final_sigmas_type": "one"}, "unipc", "final_sigmas_type is 'one'.*sigma_min"),
        ({"beta_start": -1.0}, "ddim", "beta_start is -1.0"),
        ({"beta_end": "much"}, "ddim", "beta_end is 'much'"),
        ({"num_train_timesteps": 0}, "ddim", "num_train_timesteps is 0"),
        ({"trained_betas": [0.1, 0.2]}, "ddim", "trained_betas holds 2 values.*1000"),
        ({"steps_offset": -1}, "ddim", "steps_offset is -1"),
        ({"sigma_min": -0.1, "use_karras_sigmas": True}, "euler", "sigma_min is -0.1"),
        ({"original_inference_steps": 2000}, "lcm", "original_inference_steps is 2000"),
        ({"thresholding": True}, "ddim", "thresholding to True"),
        ({"use_beta_sigmas": True, "use_karras_sigmas": True}, "heun", "asks for karras and beta sigmas at once"),
        ({"variance_type": "learned"}, "ddpm", "variance_type to 'learned'"),
        ({"skip_prk_steps": False}, "PLMS", "skip_prk_steps to False"),
        ({"timestep_type": "continuous"}, "euler", "timestep_type to 'continuous'"),
        ({"solver_order": 3}, "dpmpp_2m", "solver_order to 3"),
        ({"solver_type": "heun"}, "dpmpp_2m", "solver_type to 'heun'"),
        ({"use_flow_sigmas": True}, "unipc", "use_flow_sigmas to True"),
        ({"disable_corrector": [0]}, "unipc", "disable_corrector"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}, None, "algorithm_type"),
    ],
)
def test_bad_configs_are_named(config: dict[str, Any], solver: str | None, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        from_scheduler_config(config, solver)


def test_keys_of_other_solvers_are_passed_over() -> None:
    """As diffusers does: a checkpoint of DPM-Solver++ with Karras sigmas still opens in DDIM."""
    config = {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "use_karras_sigmas": True}
    assert from_scheduler_config(config, "ddim").spread is None
    assert from_scheduler_config({"use_karras_sigmas": True}, "dpmpp_2m").spread == "karras"


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, None])
@pytest.mark.parametrize("solver", SOLVERS)
def test_bad_steps(solver: str, steps: Any) -> None:
    with pytest.raises(SettingError, match=r"steps is .*from 1 to"):
        from_scheduler_config(LATENT, solver).schedule(steps)


def test_more_steps_than_a_spacing_can_tell_apart() -> None:
    with pytest.raises(SettingError, match="51; the solver lcm"):
        from_scheduler_config(LATENT, "lcm").schedule(51)
    with pytest.raises(SettingError, match="start at timestep 1000"):
        from_scheduler_config({**LATENT, "steps_offset": 1}, "ddim").schedule(1000)
    with pytest.raises(SettingError, match="tells apart"):
        from_scheduler_config({**LATENT, "timestep_spacing": "leading"}, "unipc").schedule(1000)


def test_eta_belongs_to_the_solvers_that_draw_noise() -> None:
    with pytest.raises(SettingError, match=r"eta is 0.5, but the solver euler has none; .*one of euler_ancestral, .*"):
        from_scheduler_config(LATENT, "euler", eta=0.5)
    for eta in (-0.1, 1.5, math.nan):
        with pytest.raises(SettingError, match="eta is"):
            Plan("ddim", NoiseSchedule(), eta=eta)
