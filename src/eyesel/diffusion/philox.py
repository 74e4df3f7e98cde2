"""Philox 4x32-10 (Salmon et al. 2011), the generator of CUDA, anywhere: the noise that `torch.randn` draws on a GPU.

A GPU has one thread an element; thread i of the n-th draw takes the block of counter (n, 0, i, 0) under the seed as key
and makes a normal number of its first two words, by Box and Muller's method with the constants of curand. This holds
while a draw fits into the threads that the GPU runs at once: the latents of a picture of 768 x 768 do on nearly every
GPU, those of 1024 x 1024 from 32 multiprocessors of 2048 threads on. AUTOMATIC1111 assumes the same when its random
number generator is set to NV.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1
WORD = 0xFFFFFFFF

TWO_PI = 6.2831854820251465  # in the single precision of curand


def multiplied(words: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The high and low 32 bits of the products, in 64-bit integers that hold no more than 48 bits each."""
    low, high = (words & 0xFFFF) * factor, (words >> 16) * factor
    high = high + (low >> 16)
    return high >> 16, (high << 16 | low & 0xFFFF) & WORD


def philox(counter: Sequence[Tensor], key: Sequence[int]) -> tuple[Tensor, ...]:
    """Four words of 32 random bits for every counter of four words, all in int64."""
    a, b, c, d = counter
    for i in range(ROUNDS):
        key_0, key_1 = ((k + i * step) & WORD for k, step in zip(key, KEY_STEPS, strict=True))
        (a_high, a_low), (c_high, c_low) = multiplied(a, MULTIPLIERS[0]), multiplied(c, MULTIPLIERS[1])
        a, b, c, d = c_high ^ b ^ key_0, c_low, a_high ^ d ^ key_1, a_low
    return a, b, c, d


class PhiloxGenerator:
    """Standard normal noise as `torch.randn(shape, device="cuda")` draws it after `torch.manual_seed(seed)`."""

    def __init__(self, seed: int) -> None:
        self.key = (seed & WORD, seed >> 32)
        self.draws = 0

    def normal(self, shape: Sequence[int]) -> Tensor:
        threads = torch.arange(math.prod(shape))
        zero = torch.zeros_like(threads)
        x, y, *_ = philox((zero + self.draws, zero, threads, zero), self.key)
        self.draws += 1
        radius = (-2 * ((x.double() + 0.5) * 2**-32).log()).sqrt()
        return (radius * ((y.double() + 0.5) * (TWO_PI * 2**-32)).sin()).float().reshape(*shape)
