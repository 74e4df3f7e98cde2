"""Guidance, and the noise that belongs to each image."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from eyesel.diffusion import (
    Composition,
    Denoiser,
    NoiseSource,
    StepDenoiser,
    Variation,
    from_scheduler_config,
    guided,
    within,
)
from eyesel.diffusion.philox import PhiloxGenerator, philox
from eyesel.errors import SettingError

X, T = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0, 500.0])
PROMPT, EMPTY = {"context": torch.full((2, 3), 2.0)}, {"context": torch.zeros(2, 3)}


class Network:
    """Counts its calls, and depends on all that it is given."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        self.batches.append(len(x))
        return torch.tanh(x) + (t + context.sum(1)).reshape(-1, 1, 1, 1) / 1000


def test_guidance_extrapolates_from_the_empty_prompt_in_one_batch() -> None:
    network = Network()
    out = guided(network, PROMPT, EMPTY, 7.5)(X, T)
    assert network.batches == [4]
    without, with_prompt = Network()(X, T, **EMPTY), Network()(X, T, **PROMPT)
    torch.testing.assert_close(out, without + 7.5 * (with_prompt - without))


def test_the_empty_prompt_comes_first() -> None:
    seen = []
    guided(lambda x, t, context: seen.append(context) or x, PROMPT, EMPTY, 2.0)(X, T)
    assert torch.equal(seen[0], torch.cat([EMPTY["context"], PROMPT["context"]]))


def test_guidance_of_one_costs_one_pass() -> None:
    network = Network()
    out = guided(network, PROMPT, EMPTY, 1.0)(X, T)
    assert network.batches == [2]
    assert torch.equal(out, Network()(X, T, **PROMPT))


def test_guidance_of_zero_is_none_as_in_diffusers() -> None:
    torch.testing.assert_close(guided(Network(), PROMPT, EMPTY, 0.0)(X, T), Network()(X, T, **PROMPT))


@pytest.mark.parametrize("guidance", [math.nan, math.inf, -math.inf])
def test_guidance_must_be_finite(guidance: float) -> None:
    with pytest.raises(SettingError, match=f"guidance is {guidance}"):
        guided(Network(), PROMPT, EMPTY, guidance)


@pytest.mark.parametrize("phi", [0.3, 0.7, 1.0])
def test_rescaled_guidance_is_that_of_diffusers(phi: float) -> None:
    expected = rescale_noise_cfg(guided(Network(), PROMPT, EMPTY, 7.5)(X, T), Network()(X, T, **PROMPT), phi)
    torch.testing.assert_close(guided(Network(), PROMPT, EMPTY, 7.5, phi)(X, T), expected)
    if phi == 1:
        torch.testing.assert_close(expected.std((1, 2, 3)), Network()(X, T, **PROMPT).std((1, 2, 3)))


@pytest.mark.parametrize("rescale", [-0.1, 1.1, math.nan])
def test_rescale_is_a_share(rescale: float) -> None:
    with pytest.raises(SettingError, match="guidance_rescale is"):
        guided(Network(), PROMPT, EMPTY, 2.0, rescale)


def test_outside_its_interval_guidance_costs_one_pass() -> None:
    network = Network()
    inside, outside = (guided(network, PROMPT, EMPTY, guidance) for guidance in (3.0, 1.0))
    denoise = within((0.3, 5.0), lambda x, sigma: inside(x, T), lambda x, sigma: outside(x, T))
    for sigma in (14.6, 5.1, 5.0, 1.0, 0.31, 0.3, 0.1):
        denoise(X, sigma)
    assert network.batches == [2, 2, 4, 4, 4, 2, 2]
    assert within(None, inside, outside) is inside


@pytest.mark.parametrize("interval", [(1.0, 1.0), (5.0, 1.0), (-1.0, 2.0), (math.nan, 2.0)])
def test_an_interval_rises(interval: tuple[float, float]) -> None:
    with pytest.raises(SettingError, match="guidance_interval is"):
        within(interval, lambda x, sigma: x, lambda x, sigma: x)


def test_noise_is_what_diffusers_draws_for_the_seed() -> None:
    noise, generator = NoiseSource([7]), torch.Generator("cpu").manual_seed(7)
    for _ in range(3):
        assert torch.equal(noise.draw((1, 4, 8, 8)), torch.randn((1, 4, 8, 8), generator=generator))


def test_noise_does_not_depend_on_the_batch() -> None:
    together, alone = NoiseSource([5, 6, 7]), NoiseSource([7])
    for _ in range(3):
        assert torch.equal(together.draw((3, 4, 8, 8))[2:], alone.draw((1, 4, 8, 8)))


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers(counter: str, key: str, expected: str) -> None:
    """philox4x32-10 in Random123's kat_vectors."""
    words = philox([torch.tensor([int(word, 16)]) for word in counter.split()], [int(k, 16) for k in key.split()])
    assert " ".join(f"{word.item():08x}" for word in words) == expected


def test_philox_noise_is_that_of_automatic1111() -> None:
    """The expected output in its modules/rng_philox.py, which is `torch.randn((3, 4), device="cuda")` of seed 0."""
    expected = [
        [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
        [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
        [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
    ]
    noise = PhiloxGenerator(0).normal((3, 4))
    assert noise.dtype == torch.float32
    torch.testing.assert_close(noise, torch.tensor(expected), atol=1e-6, rtol=0)


def test_philox_noise_goes_on_and_stays_with_its_seed() -> None:
    together, alone = NoiseSource([5, 2**63 + 6], rng="philox"), NoiseSource([2**63 + 6], rng="philox")
    draws = [together.draw((2, 4, 32, 32)) for _ in range(3)]
    assert all(torch.equal(noise[1:], alone.draw((1, 4, 32, 32))) for noise in draws)
    everything = torch.stack(draws)
    assert len(everything.unique()) > 0.999 * everything.numel()
    assert abs(everything.mean()) < 0.02
    assert abs(everything.std() - 1) < 0.02


def test_an_unknown_generator() -> None:
    with pytest.raises(SettingError, match="rng is 'gpu'; choose one of cpu, philox"):
        NoiseSource([0], rng="gpu")


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5])
def test_bad_seeds(seed: int) -> None:
    with pytest.raises(SettingError, match="seed is"):
        NoiseSource([seed])


def test_noise_needs_a_seed_for_each_image() -> None:
    with pytest.raises(SettingError, match="holds 3 images; there are 2 seeds"):
        NoiseSource([1, 2]).draw((3, 4, 8, 8))


def test_several_conditionals_add_up_for_their_image() -> None:
    rows = {"context": torch.tensor([[2.0] * 3, [5.0] * 3, [7.0] * 3])}
    composition = Composition(torch.tensor([0, 1, 1]), torch.tensor([1.0, 0.5, -2.0]))
    network = Network()
    for guidance in (1.0, 4.0):
        out = guided(network, rows, EMPTY, guidance, composition=composition)(X, T)
        assert network.batches.pop() == 5
        without = Network()(X, T, **EMPTY)
        first, second, third = (
            Network()(X[i : i + 1], T[:1], rows["context"][r : r + 1]) for i, r in ((0, 0), (1, 1), (1, 2))
        )
        torch.testing.assert_close(out[:1], without[:1] + guidance * (first - without[:1]))
        change = 0.5 * (second - without[1:]) - 2 * (third - without[1:])
        torch.testing.assert_close(out[1:], without[1:] + guidance * change)


@pytest.mark.parametrize("solver", ["euler", "heun", "ddim", "dpmpp_2m"])
def test_the_network_of_a_step_is_chosen_by_the_noise_level(solver: str) -> None:
    plan = from_scheduler_config({"_class_name": "DDIMScheduler"}, solver)
    schedule = plan.schedule(5)
    sigmas = schedule.sigmas.tolist()
    assert [schedule.step(sigma) for sigma in sigmas] == [0, 1, 2, 3, 4, 4]
    assert [schedule.step(0.7 * a + 0.3 * b) for a, b in pairwise(sigmas)] == [0, 1, 2, 3, 4]
    assert schedule.step(2 * sigmas[0]) == 0

    asked: list[int] = []

    def network(i: int):
        return lambda x, t: asked.append(i) or 0.1 * x

    denoiser = StepDenoiser([Denoiser(network(i), schedule) for i in range(5)], schedule)
    for _ in plan.solve(denoiser, X, schedule, NoiseSource([0, 1])):
        pass
    assert sorted(set(asked)) == [0, 1, 2, 3, 4] and asked == sorted(asked)


@pytest.mark.parametrize("rng", ["cpu", "philox"])
def test_variations_are_those_of_automatic1111(rng) -> None:
    """Its slerp, written down from `modules/rng.py`; only the first draw is varied."""

    def slerp(val: float, low: Tensor, high: Tensor) -> Tensor:
        low_norm = low / torch.norm(low, dim=1, keepdim=True)
        high_norm = high / torch.norm(high, dim=1, keepdim=True)
        omega = torch.acos((low_norm * high_norm).sum(1))
        so = torch.sin(omega)
        return (torch.sin((1.0 - val) * omega) / so).unsqueeze(1) * low + (torch.sin(val * omega) / so).unsqueeze(
            1
        ) * high

    shape = (2, 4, 6, 8)
    own, other = NoiseSource([7, 7], rng=rng), NoiseSource([3, 4], rng=rng)
    varied = NoiseSource([7, 7], rng=rng, variation=Variation([3, 4], 0.3))
    first, others = own.draw(shape), other.draw(shape)
    expected = torch.stack([slerp(0.3, a, b) for a, b in zip(first, others, strict=True)])
    result = varied.draw(shape)
    assert (result - expected).abs().max() <= 1e-5
    assert not torch.allclose(result[0], result[1]) and not torch.allclose(result, first, atol=0.1)
    assert torch.equal(varied.draw(shape), own.draw(shape))
    whole = NoiseSource([7, 7], rng=rng, variation=Variation([3, 4], 1.0)).draw(shape)
    assert (whole - others).abs().max() <= 1e-5
    assert torch.equal(NoiseSource([7], rng=rng, variation=Variation([7], 0.5)).draw((1, 4, 6, 8)), first[:1])
