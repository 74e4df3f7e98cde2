"""Which of very many names have occurred, and how often, in twenty bytes each."""

from collections.abc import Collection
from hashlib import blake2b

import numpy as np


def digest(name: str) -> int:
    """64 bits. Among a million names some two have the same once in 30 million times."""
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class Tally:
    """Names, by their digests, that are taken out one by one."""

    def __init__(self, digests: Collection[int]) -> None:
        numbers = np.fromiter(digests, np.uint64, len(digests))
        self._digests, self._left = np.unique(numbers, return_counts=True)

    def __len__(self) -> int:
        """How many different ones there were."""
        return len(self._digests)

    def take(self, name: str) -> bool:
        """Whether there is one left of that name, which then is gone."""
        wanted = np.uint64(digest(name))
        place = int(self._digests.searchsorted(wanted))
        if place == len(self._digests) or self._digests[place] != wanted or not self._left[place]:
            return False
        self._left[place] -= 1
        return True
