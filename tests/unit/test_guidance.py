"""Guidance, and the noise that belongs to each image."""

import math

import pytest
import torch
from torch import Tensor

from eyesel.diffusion import NoiseSource, guided
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


def test_guidance_of_zero_is_the_empty_prompt() -> None:
    torch.testing.assert_close(guided(Network(), PROMPT, EMPTY, 0.0)(X, T), Network()(X, T, **EMPTY))


@pytest.mark.parametrize("guidance", [math.nan, math.inf, -math.inf])
def test_guidance_must_be_finite(guidance: float) -> None:
    with pytest.raises(SettingError, match=f"guidance is {guidance}"):
        guided(Network(), PROMPT, EMPTY, guidance)


def test_noise_is_what_diffusers_draws_for_the_seed() -> None:
    noise, generator = NoiseSource([7]), torch.Generator("cpu").manual_seed(7)
    for _ in range(3):
        assert torch.equal(noise.draw((1, 4, 8, 8)), torch.randn((1, 4, 8, 8), generator=generator))


def test_noise_does_not_depend_on_the_batch() -> None:
    together, alone = NoiseSource([5, 6, 7]), NoiseSource([7])
    for _ in range(3):
        assert torch.equal(together.draw((3, 4, 8, 8))[2:], alone.draw((1, 4, 8, 8)))


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5])
def test_bad_seeds(seed: int) -> None:
    with pytest.raises(SettingError, match="seed is"):
        NoiseSource([seed])


def test_noise_needs_a_seed_for_each_image() -> None:
    with pytest.raises(SettingError, match="holds 3 images; there are 2 seeds"):
        NoiseSource([1, 2]).draw((3, 4, 8, 8))
