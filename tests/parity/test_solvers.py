"""Every solver against the diffusers class that it stands for, each made from the same scheduler_config.json on disk.

The network is a smooth function of x and t near the best one for pictures of unit variance, so that latents stay of
order 1. Whole trajectories are compared, in the space in which diffusers keeps its latents.
"""

import inspect
import itertools
import json
import math
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from eyesel.diffusion import SOLVERS, Denoiser, NoiseSource, from_scheduler_config

TOLERANCE = 1e-4
SHAPE = (1, 4, 8, 8)
SEED = 7
STEPS = (1, 2, 5, 10, 25)
PREDICTIONS = ("epsilon", "v_prediction", "sample")

CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmpp_sde": ("DPMSolverSDEScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}
NEEDS = {"lms": "scipy", "dpmpp_sde": "torchsde"}  # of diffusers' class; tests of the formulas stand in without them
NO_SAMPLE = ("euler_ancestral", "dpm2", "dpm2_ancestral", "dpmpp_sde", "pndm")  # classes without sample prediction

SD1_ON_THE_HUB = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
LATENT = {"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LINEAR = {"_class_name": "DDPMScheduler", "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
ZERO_SNR = {**LATENT, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "clip_sample": False}

# What can vary in a file, each alone and in the company in which it is found.
CONFIGS: dict[str, dict[str, Any]] = {
    "hub": SD1_ON_THE_HUB,
    "bare": {"_class_name": "DDPMScheduler"},
    **{
        f"{spacing}-{offset}": {**LATENT, "timestep_spacing": spacing, "steps_offset": offset, "clip_sample": False}
        for spacing in ("leading", "linspace", "trailing")
        for offset in (0, 1)
    },
    "linear-trailing": {**LINEAR, "timestep_spacing": "trailing"},
    "cosine": {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"},
    "trained": {**LATENT, "num_train_timesteps": 200, "trained_betas": torch.linspace(0.001, 0.05, 200).tolist()},
    "clipped": {**LATENT, "clip_sample": True, "clip_sample_range": 0.7},
    "sigma-min": {**LATENT, "final_sigmas_type": "sigma_min", "set_alpha_to_one": False, "steps_offset": 1},
    "karras": {**LATENT, "use_karras_sigmas": True},
    "karras-leading": {**LATENT, "use_karras_sigmas": True, "timestep_spacing": "leading", "steps_offset": 1},
    "karras-range": {**LATENT, "use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 12.0},
    "karras-sigma-min": {**LATENT, "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
    "end-orders": {**LATENT, "euler_at_final": True, "lower_order_final": True, "final_sigmas_type": "sigma_min"},
}


def network(prediction_type: str, total: int = 1000) -> Any:
    weight = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0)) / 6

    def predict(x: Tensor, t: Tensor) -> Tensor:
        angle = (t.float() / total * math.pi / 2).reshape(-1, 1, 1, 1)
        share = {"epsilon": angle.sin(), "v_prediction": 0 * angle, "sample": angle.cos()}[prediction_type]
        return share * x + 0.3 * torch.tanh(torch.nn.functional.conv2d(x, weight, padding=1) + angle)

    return predict


def reference(folder: Path, solver: str, **changes: Any) -> Any:
    """diffusers' scheduler, read from the file by the class that the solver stands for."""
    if solver in NEEDS:
        pytest.importorskip(NEEDS[solver])
    name, settings = CLASSES[solver]
    return getattr(diffusers, name).from_pretrained(folder, **settings, **changes)


def brownian_path(draw: Any) -> Any:
    """What DPMSolverSDEScheduler asks its Brownian tree: how far the path went between two sigmas, at variance 1."""
    path: dict[float, Any] = {}

    def at(sigma: float) -> Any:
        known = [s for s in path if math.isclose(s, sigma, rel_tol=1e-6)]
        if known:
            return path[known[0]]
        last = min(path, default=sigma)
        path[sigma] = path.get(last, 0) + math.sqrt(last - sigma) * (draw() if path else 0)
        return path[sigma]

    return lambda start, end: (-at(start.item()) + at(end.item())) / math.sqrt(start - end)


def reference_run(scheduler: Any, steps: int, predict: Any, **kwargs: Any) -> list[Tensor]:
    """The latents after each step, as diffusers' text-to-image pipeline makes them."""
    generator = torch.Generator("cpu").manual_seed(SEED)
    if "generator" in scheduler.step.__code__.co_varnames:
        kwargs["generator"] = generator
    scheduler.set_timesteps(steps)
    x = torch.randn(SHAPE, generator=generator) * scheduler.init_noise_sigma
    if hasattr(scheduler, "noise_sampler"):
        scheduler.noise_sampler = brownian_path(lambda: torch.randn(SHAPE, generator=generator))
    latents = []
    for t in scheduler.timesteps:
        output = predict(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, **kwargs, return_dict=False)[0]
        latents.append(x)
    if isinstance(scheduler, diffusers.PNDMScheduler):
        return latents[-steps:]  # its first step is taken twice
    return [*latents[1:-1:2], latents[-1]] if scheduler.order == 2 else latents  # a half step between whole ones


def own_run(
    config: dict[str, Any], solver: str | None, steps: int, predict: Any, eta: float | None = None
) -> list[Tensor]:
    plan = from_scheduler_config(config, solver, eta)
    schedule, noise = plan.schedule(steps), NoiseSource([SEED])
    x = plan.start(noise.draw(SHAPE), schedule)
    done = list(plan.solve(Denoiser(predict, schedule), x, schedule, noise))
    in_vp = SOLVERS[plan.solver].space == "vp"
    latents = [step.x / math.sqrt(step.sigma**2 + 1) if in_vp else step.x for step in done[:-1]]
    return [*latents, done[-1].x]


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest one, relative to the latents where these are larger than 1."""
    assert len(ours) == len(theirs)
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in zip(ours, theirs, strict=True))


def tolerance(solver: str, highest: float) -> float:
    """Where diffusers loses digits, compare test_single_precision_is_enough_at_large_sigma.

    Most classes add and subtract numbers of the size of sigma. DPM2's take differences of squares of sigmas in single
    precision, and at large sigma get them as wrong as nan.
    """
    if highest > 1000:
        return 100 if solver.startswith("dpm2") else highest * 2**-19
    return 2e-3 if solver == "dpm2_ancestral" else TOLERANCE


def check(folder: Path, config: dict[str, Any], solver: str, scheduler: Any = None) -> None:
    """Our solver and diffusers', from one file, for every number of steps."""
    (folder / "scheduler_config.json").write_text(json.dumps(config))
    scheduler = scheduler or reference(folder, solver)
    if (solver, scheduler.config.timestep_spacing) == ("pndm", "linspace"):
        pytest.skip("diffusers' strides miss the timesteps of linspace spacing; ours do not")
    predict = network(config.get("prediction_type", "epsilon"), config.get("num_train_timesteps", 1000))
    for steps in STEPS:
        ends_noisy = solver == "deis" or (solver == "unipc" and "final_sigmas_type" in config)
        if steps == 1 and ends_noisy and config.get("use_karras_sigmas"):
            continue  # see test_one_step_with_karras_ends_at_sigma_min
        theirs = reference_run(scheduler, steps, predict)
        worst = difference(own_run(config, solver, steps, predict), theirs)
        highest = from_scheduler_config(config, solver).schedule(steps).sigmas[0].item()
        assert not worst > tolerance(solver, highest), f"{steps} steps: {worst}"


SLOW = ("dpm2", "dpm2_ancestral", "dpmpp_sde", "lms")  # to set up, in diffusers
CASES = [
    (solver, prediction_type, name)
    for solver in CLASSES
    for prediction_type in PREDICTIONS
    for name in CONFIGS
    # For the others see test_any_solver_takes_sample_prediction.
    if not (solver in NO_SAMPLE and prediction_type == "sample")
    if not (solver in SLOW and prediction_type != "epsilon" and name != "hub")
    if not (solver == "deis" and name == "karras-range")  # diffusers' ends at its last sigma, ours at the lowest level
]


@pytest.mark.parametrize(("solver", "prediction_type", "name"), CASES)
def test_trajectories_agree(solver: str, prediction_type: str, name: str, tmp_path: Path) -> None:
    check(tmp_path, {**CONFIGS[name], "prediction_type": prediction_type}, solver)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("solver", CLASSES)
def test_zero_terminal_snr_agrees(solver: str, spacing: str, tmp_path: Path) -> None:
    config = {**ZERO_SNR, "timestep_spacing": spacing}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    scheduler = reference(tmp_path, solver)
    if "rescale_betas_zero_snr" not in inspect.signature(type(scheduler)).parameters:  # passed over; not by us
        scheduler.alphas_cumprod = diffusers.EulerDiscreteScheduler.from_pretrained(tmp_path).alphas_cumprod
    check(tmp_path, config, solver, scheduler)


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m", "unipc"])
def test_zero_terminal_snr_with_karras_agrees(solver: str, tmp_path: Path) -> None:
    config = {**ZERO_SNR, "use_karras_sigmas": True, "sigma_max": 50.0, "timestep_spacing": "trailing"}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    scheduler = reference(tmp_path, solver)
    if solver == "heun":
        scheduler.alphas_cumprod = diffusers.EulerDiscreteScheduler.from_pretrained(tmp_path).alphas_cumprod
    check(tmp_path, config, solver, scheduler)


@pytest.mark.parametrize("solver", ["ddim", "lcm"])
def test_epsilon_at_zero_snr_stays_finite(solver: str) -> None:
    """diffusers divides by an alpha of 0 here."""
    config = {**ZERO_SNR, "prediction_type": "epsilon", "timestep_spacing": "trailing"}
    assert all(x.isfinite().all() for x in own_run(config, solver, 5, network("epsilon")))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("config", [ZERO_SNR, CONFIGS["cosine"]], ids=["zero-snr", "cosine"])
def test_single_precision_is_enough_at_large_sigma(solver: str, config: dict[str, Any]) -> None:
    """Against the same run in double precision, from sigmas of 4,000 and more."""
    plan = from_scheduler_config({**config, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}, solver)
    schedule, ends = plan.schedule(10), []
    for dtype in (torch.float32, torch.float64):
        noise = NoiseSource([SEED])
        x = plan.start(noise.draw(SHAPE).to(dtype), schedule)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            return 0.3 * torch.tanh(x.roll(1, -1) + t.reshape(-1, 1, 1, 1) / 1000)

        *_, last = plan.solve(Denoiser(predict, schedule), x, schedule, noise)
        ends.append(last.x.double())
    assert (ends[0] - ends[1]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["hub", "bare", "trailing-0"])
@pytest.mark.parametrize("solver", ["ddim", "tcd"])
def test_eta_agrees(solver: str, name: str, eta: float, tmp_path: Path) -> None:
    (tmp_path / "scheduler_config.json").write_text(json.dumps(CONFIGS[name]))
    predict = network("epsilon")
    for steps in STEPS:
        theirs = reference_run(reference(tmp_path, solver), steps, predict, eta=eta)
        assert difference(own_run(CONFIGS[name], solver, steps, predict, eta), theirs) <= TOLERANCE


@pytest.mark.parametrize(
    ("ancestral", "plain"),
    [("euler_ancestral", "euler"), ("dpm2_ancestral", "dpm2"), ("dpmpp_2m_sde", "dpmpp_2m"), ("ddpm", "ddim")],
)
def test_without_fresh_noise_an_ancestral_solver_is_the_plain_one(ancestral: str, plain: str) -> None:
    predict, config = network("epsilon"), CONFIGS["leading-1"]
    theirs = own_run(config, plain, 10, predict)
    assert difference(own_run(config, ancestral, 10, predict, eta=0.0), theirs) <= TOLERANCE


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize(("solver", "alias"), [("euler", "Euler"), ("euler_ancestral", "turbo")])
def test_turbo_checkpoints_take_one_to_four_steps(solver: str, alias: str, steps: int, tmp_path: Path) -> None:
    """The schedulers of SD-Turbo and SDXL-Turbo start at the last timestep; one step is the network's own picture."""
    config = {**LATENT, "_class_name": CLASSES[solver][0], "timestep_spacing": "trailing", "steps_offset": 1}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    predict = network("epsilon")
    ours = own_run(config, alias, steps, predict)
    assert difference(ours, reference_run(reference(tmp_path, solver), steps, predict)) <= TOLERANCE
    schedule = from_scheduler_config(config).schedule(steps)
    assert schedule.timesteps[0] == 999
    assert schedule.sigmas[-1] == 0
    if steps == 1:
        x = NoiseSource([SEED]).draw(SHAPE) * schedule.sigmas[0]
        torch.testing.assert_close(ours[0], Denoiser(predict, schedule)(x, schedule.sigmas[0].item()))


def test_ancestral_midpoint_solvers_are_those_of_k_diffusion() -> None:
    """Its sample_dpmpp_sde, _dpmpp_2s_ancestral and _dpm_2_ancestral in double precision, as it writes them."""
    schedule = from_scheduler_config({**LATENT, "timestep_spacing": "trailing"}, "dpmpp_sde").schedule(6)
    denoise, sigmas = Denoiser(network("epsilon"), schedule), schedule.sigmas.tolist()

    def ancestral_step(start: float, end: float) -> tuple[float, float]:
        up = min(end, (end**2 * (start**2 - end**2) / start**2) ** 0.5)
        return (end**2 - up**2) ** 0.5, up

    def exponential(x: Tensor, denoised: Tensor, start: float, end: float) -> Tensor:
        t, t_end = -math.log(start), -math.log(end)
        return (math.exp(-t_end) / math.exp(-t)) * x - math.expm1(t - t_end) * denoised

    for solver in ("dpmpp_sde", "dpmpp_2s_ancestral", "dpm2_ancestral"):
        generator = torch.Generator().manual_seed(SEED)
        x = torch.randn(SHAPE, generator=generator).double() * sigmas[0]
        path = brownian_path(lambda generator=generator: torch.randn(SHAPE, generator=generator))
        for start, end in itertools.pairwise(sigmas):
            denoised = denoise(x.float(), start).double()
            if end == 0:
                x = denoised
                continue
            down, up = ancestral_step(start, end)
            if solver == "dpmpp_sde":
                middle = math.exp((math.log(start) + math.log(end)) / 2)
                down_half, up_half = ancestral_step(start, middle)
                half = exponential(x, denoised, start, down_half)
                half = half + up_half * path(torch.tensor(start), torch.tensor(middle))
                noise = path(torch.tensor(start), torch.tensor(end))
            else:
                middle = math.exp((math.log(start) + math.log(down)) / 2)
                half = exponential(x, denoised, start, middle)
                noise = torch.randn(SHAPE, generator=generator)
            again = denoise(half.float(), middle).double()
            if solver == "dpm2_ancestral":
                x = x + (half - again) / middle * (down - start) + up * noise
            else:
                x = exponential(x, again, start, down) + up * noise
        ours = own_run({**LATENT, "timestep_spacing": "trailing"}, solver, 6, network("epsilon"))
        assert difference(ours[-1:], [x.float()]) <= TOLERANCE


def test_lms_integrates_cubics_exactly() -> None:
    """If the slope is a cubic in sigma and nothing else, the steps after the third give its integral."""
    schedule = from_scheduler_config({**LATENT, "use_karras_sigmas": True}, "lms").schedule(8)

    def integral(sigma: float) -> float:
        return 0.01 * sigma**4 / 4 - 0.2 * sigma**3 / 3 + sigma**2 / 2 - 2 * sigma

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return x - sigma * (0.01 * sigma**3 - 0.2 * sigma**2 + sigma - 2)

    x = torch.zeros(SHAPE, dtype=torch.float64)
    done = list(SOLVERS["lms"].run(denoise, x, schedule, NoiseSource([SEED])))
    for before, after in itertools.pairwise(done[2:]):
        expected = integral(after.sigma) - integral(before.sigma)
        torch.testing.assert_close(after.x - before.x, torch.full_like(x, expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "original",
    ["PNDMScheduler", "DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"],
)
@pytest.mark.parametrize("solver", CLASSES)
def test_a_saved_scheduler_opens_in_another_solver(solver: str, original: str, tmp_path: Path) -> None:
    """save_pretrained writes every default of the original class down, and they then belong to the checkpoint."""
    scheduler = getattr(diffusers, original)(beta_start=0.00085, beta_end=0.012, steps_offset=1)
    if original == "PNDMScheduler":
        scheduler.register_to_config(skip_prk_steps=True)
    scheduler.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "scheduler_config.json").read_text())
    check(tmp_path, config, solver)


@pytest.mark.parametrize("solver", CLASSES)
def test_switching_as_pipelines_do(solver: str, tmp_path: Path) -> None:
    """`Other.from_config(pipeline.scheduler.config)` after loading Stable Diffusion 1's file from the hub."""
    (tmp_path / "scheduler_config.json").write_text(json.dumps(SD1_ON_THE_HUB))
    loaded = diffusers.PNDMScheduler.from_pretrained(tmp_path)
    if solver in NEEDS:
        pytest.importorskip(NEEDS[solver])
    name, settings = CLASSES[solver]
    check(tmp_path, SD1_ON_THE_HUB, solver, getattr(diffusers, name).from_config(loaded.config, **settings))


@pytest.mark.parametrize(
    ("config", "solver"),
    [
        *(({"_class_name": name, **settings}, solver) for solver, (name, settings) in CLASSES.items()),
        (SD1_ON_THE_HUB, "pndm"),
    ],
)
def test_the_checkpoints_own_solver(config: dict[str, Any], solver: str) -> None:
    assert from_scheduler_config(config).solver == solver


@pytest.mark.parametrize("solver", [s for s in NO_SAMPLE if s != "pndm"])  # which extrapolates the prediction itself
def test_any_solver_takes_sample_prediction(solver: str) -> None:
    """A network that predicts the sample and one that says the same as epsilon give the same picture."""
    config = {**LATENT, "timestep_spacing": "trailing"}
    schedule = from_scheduler_config(config, solver).schedule(10)
    logs, sample = schedule.levels.double().log(), network("sample")

    def epsilon(x: Tensor, t: Tensor) -> Tensor:
        t = t.double()
        low = t.long().clamp(max=len(logs) - 2)
        sigma = (logs[low] + (t - low) * (logs[low + 1] - logs[low])).exp().reshape(-1, 1, 1, 1)
        return ((x * (sigma**2 + 1).sqrt() - sample(x, t)) / sigma).float()

    theirs = own_run({**config, "prediction_type": "epsilon"}, solver, 10, epsilon)
    assert difference(own_run({**config, "prediction_type": "sample"}, solver, 10, sample), theirs) <= TOLERANCE


@pytest.mark.parametrize("solver", ["unipc", "deis"])
def test_one_step_with_karras_ends_at_sigma_min(solver: str) -> None:
    """diffusers repeats the only sigma there and returns the noise it began with."""
    config = CONFIGS["karras-sigma-min"]
    plan = from_scheduler_config(config, solver)
    sigmas = plan.schedule(1).sigmas
    assert sigmas[1] == plan.schedule(1).levels[0] < sigmas[0]


def test_heun_evaluates_twice_but_for_the_last_step() -> None:
    calls = []
    predict = network("epsilon")
    own_run(LATENT, "heun", 5, lambda x, t: calls.append(t.item()) or predict(x, t))
    assert len(calls) == 9


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_image_does_not_depend_on_its_batch(solver: str) -> None:
    plan = from_scheduler_config(SD1_ON_THE_HUB, solver, eta=None if SOLVERS[solver].eta is None else 1.0)
    schedule, predict = plan.schedule(5), network("epsilon")

    def run(seeds: list[int]) -> Tensor:
        noise = NoiseSource(seeds)
        x = plan.start(noise.draw((len(seeds), *SHAPE[1:])), schedule)
        *_, last = plan.solve(Denoiser(predict, schedule), x, schedule, noise)
        return last.x

    together = run([3, SEED, 11])
    torch.testing.assert_close(together[1:2], run([SEED]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[[2, 0]], run([11, 3]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_state_stays_single_precision_around_a_half_precision_network(solver: str) -> None:
    plan = from_scheduler_config(SD1_ON_THE_HUB, solver)
    schedule, noise, predict = plan.schedule(3), NoiseSource([SEED]), network("epsilon")
    x = plan.start(noise.draw(SHAPE), schedule)
    denoise = Denoiser(lambda x, t: predict(x, t).bfloat16(), schedule)
    steps = list(plan.solve(denoise, x, schedule, noise))
    assert [step.index for step in steps] == [0, 1, 2]
    assert all(step.x.dtype == step.denoised.dtype == torch.float32 for step in steps)
