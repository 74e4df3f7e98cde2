"""The schedules that go with any solver, against diffusers where it has them, else against their authors' formulas."""

import json
import math
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_utils import AysSchedules

from eyesel.diffusion import SCHEDULES, SOLVERS, Denoiser, NoiseSource, Schedule, from_scheduler_config
from eyesel.diffusion.spacing import beta_quantiles
from eyesel.errors import SettingError

LATENT: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO_SNR = {**LATENT, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
CLASSES = {
    "euler": "EulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "dpm2": "KDPM2DiscreteScheduler",
    "dpm2_ancestral": "KDPM2AncestralDiscreteScheduler",
    "dpmpp_sde": "DPMSolverSDEScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "deis": "DEISMultistepScheduler",
}
NEEDS = {"lms": "scipy", "dpmpp_sde": "torchsde"}
STEPS = (1, 2, 5, 10, 25)


def levels() -> list[float]:
    return from_scheduler_config(LATENT, "euler").schedule(1).levels.double().tolist()


def scheduled(schedule: str, steps: int, solver: str = "euler", **settings: Any) -> Schedule:
    return from_scheduler_config({**LATENT, **settings}, solver, schedule=schedule).schedule(steps)


@pytest.mark.parametrize("name", ["karras", "exponential", "beta"])
@pytest.mark.parametrize("solver", CLASSES)
def test_sigmas_are_those_of_diffusers(solver: str, name: str, tmp_path: Path) -> None:
    """Asked for by the file, as `from_config(config, use_..._sigmas=True)` writes it, or by the caller."""
    if needed := "scipy" if name == "beta" else NEEDS.get(solver):
        pytest.importorskip(needed)
    config = {**LATENT, f"use_{name}_sigmas": True, "timestep_spacing": "leading", "steps_offset": 1}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    theirs = getattr(diffusers, CLASSES[solver]).from_pretrained(tmp_path)
    for steps in STEPS:
        theirs.set_timesteps(steps)
        order = theirs.order
        expected = theirs.sigmas.double()
        expected = torch.cat([expected[:1], expected[1:-1:order], expected[-1:]])[: steps + 1]
        ours = from_scheduler_config(config, solver).schedule(steps)
        end = steps if solver == "deis" and steps == 1 else steps + 1  # see test_one_step_with_karras_ends_at_sigma_min
        torch.testing.assert_close(ours.sigmas[:end].double(), expected[:end], rtol=2e-6, atol=1e-7)
        # diffusers truncates to whole timesteps, exponential and beta sigmas of the multistep classes; we round.
        far = 1 + 1e-3 if SOLVERS[solver].whole == "always" else 1e-3
        assert (ours.timesteps - theirs.timesteps[::order].float()).abs().max() <= far
        asked = scheduled(name, steps, solver, timestep_spacing="leading", steps_offset=1)
        assert torch.equal(asked.sigmas, ours.sigmas)
        assert torch.equal(asked.timesteps, ours.timesteps)


# scipy 1.17.1: scipy.stats.beta.ppf(p, 0.6, 0.6)
QUANTILES = (
    (0.0, 0.0),
    (1e-06, 1.8558824624053043e-10),
    (0.01, 0.0008612388215429059),
    (0.1, 0.03958440558878085),
    (0.25, 0.17568037865269498),
    (0.4, 0.3627009907532143),
    (0.5, 0.5000000000000001),
    (0.7, 0.7659829961247643),
    (0.9, 0.9604155944112192),
    (0.999, 0.9999814412614826),
    (1.0, 1.0),
)


def test_beta_quantiles_are_those_of_scipy() -> None:
    p, expected = torch.tensor(QUANTILES, dtype=torch.float64).unbind(1)
    torch.testing.assert_close(beta_quantiles(p, 0.6), expected, rtol=0, atol=1e-14)
    stats = pytest.importorskip("scipy.stats")
    p = torch.linspace(0, 1, 101, dtype=torch.float64)
    for a in (0.3, 0.6, 1.0, 2.5):
        torch.testing.assert_close(beta_quantiles(p, a), torch.from_numpy(stats.beta.ppf(p, a, a)), rtol=0, atol=1e-13)


def k_diffusion_sigma(timestep: float) -> float:
    """t_to_sigma of k-diffusion's DiscreteSchedule."""
    low, high = math.floor(timestep), math.ceil(timestep)
    w = timestep - low
    return math.exp((1 - w) * math.log(levels()[low]) + w * math.log(levels()[high]))


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 30])
def test_the_schedules_of_comfyui_and_automatic1111(steps: int) -> None:
    """normal_scheduler, the same with sgm=True, and simple_scheduler, which both programs share."""
    by_hand = {
        "normal": [k_diffusion_sigma(t) for t in np.linspace(999, 0, steps)],
        "sgm_uniform": [k_diffusion_sigma(t) for t in np.linspace(999, 0, steps + 1)[:-1]],
        "simple": [levels()[-(1 + int(i * (1000 / steps)))] for i in range(steps)],
    }
    for name, expected in by_hand.items():
        ours = scheduled(name, steps)
        assert ours.sigmas.tolist() == pytest.approx([*expected, 0.0], rel=1e-6), name
    spread = np.linspace(999, 0, steps + 1)[:-1]
    assert scheduled("sgm_uniform", steps).timesteps.tolist() == pytest.approx(list(spread), abs=1e-3)


@pytest.mark.parametrize(
    ("xl", "key"), [(False, "StableDiffusionSigmas"), (True, "StableDiffusionXLSigmas")], ids=["sd", "sdxl"]
)
def test_align_your_steps(xl: bool, key: str) -> None:
    """The published ten steps, and between them log-linear interpolation, as its authors' instructions have it."""
    plan = from_scheduler_config(LATENT, "euler", schedule="Align Your Steps", xl=xl)
    assert plan.schedule(10).sigmas.tolist() == pytest.approx(AysSchedules[key])
    table = [*AysSchedules[key][:-1], 0.029]
    for steps in (1, 4, 25):
        wanted = np.exp(np.interp(np.linspace(0, 10, steps + 1), np.arange(11), np.log(table)))
        assert plan.schedule(steps).sigmas.tolist() == pytest.approx([*wanted[:-1], 0.0])


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_a_spacing_is_a_schedule_too(spacing: str) -> None:
    asked = from_scheduler_config({**LATENT, "timestep_spacing": "leading"}, "euler", schedule=spacing)
    written = from_scheduler_config({**LATENT, "timestep_spacing": spacing}, "euler")
    assert torch.equal(asked.schedule(7).sigmas, written.schedule(7).sigmas)
    noise = torch.ones(1)
    assert asked.start(noise, asked.schedule(7)) == written.start(noise, written.schedule(7))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_takes_every_schedule(solver: str, schedule: str) -> None:
    for config in (LATENT, ZERO_SNR):
        plan = from_scheduler_config(config, solver, schedule=schedule)
        for steps in (1, 4, 30):
            run, noise = plan.schedule(steps), NoiseSource([0])
            assert len(run) == steps
            assert (run.sigmas[1:-1] < run.sigmas[:-2]).all()
            x = plan.start(noise.draw((1, 1, 2, 2)), run)
            done = list(plan.solve(Denoiser(lambda x, t: 0.1 * x, run), x, run, noise))
            assert [step.index for step in done] == list(range(steps))
            assert all(step.x.isfinite().all() for step in done)


def test_no_schedule_asks_for_more_levels_than_there_are() -> None:
    with pytest.raises(SettingError, match=r"steps is 201; .*from 1 to 200"):
        scheduled("simple", 201, num_train_timesteps=200)
    assert len(scheduled("sgm_uniform", 200, "lcm", num_train_timesteps=200)) == 200
