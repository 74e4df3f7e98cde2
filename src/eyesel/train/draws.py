"""Randomness that belongs to a sample and not to a moment: the same whatever came before it.

A shuffled sampler hands out `Draw`s, and whatever is drawn for one (a crop, a timestep) comes from a generator of
(seed, epoch, number). So a run that was stopped goes on with the very same numbers, and the number of processes or of
workers that load data does not matter.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """One sample of one epoch; what a training data set is indexed by. In evaluation that is a plain int."""

    epoch: int
    number: int


class Shuffled(Sampler[Draw]):
    """Every sample once an epoch, in an order that follows from (seed, epoch)."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        for number in generator(self.seed, self.epoch).permutation(self.length).tolist():
            yield Draw(self.epoch, number)


def generator(seed: int, *key: int) -> np.random.Generator:
    """Independent for each key."""
    return np.random.default_rng((seed, *key))
