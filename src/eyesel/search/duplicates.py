"""Pictures that are there twice: the same bytes, or vectors in almost the same direction."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eyesel.errors import SettingError
from eyesel.search.distances import blocks, unit
from eyesel.search.index import Row


@dataclass(frozen=True)
class Group:
    """Rows, by number, that are one picture; `similarity` is the least cosine by which a member joined."""

    rows: tuple[int, ...]
    exact: bool  # all of them the same bytes
    similarity: float


def duplicates(rows: Sequence[Row], vectors: np.ndarray, threshold: float = 0.995) -> list[Group]:
    """Groups of two and more, exact ones first, then by similarity; a chain of near pairs is one group.

    Two are near if the cosine of their vectors is at least `threshold`, -1 to 1. All pairs are compared, which takes
    a second for 10,000 pictures or so and grows with the square.
    """
    if not -1 <= threshold <= 1:
        raise SettingError(f"threshold is {threshold:g}; a cosine lies between -1 and 1, such as 0.995.")
    parents = list(range(len(rows)))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    least: dict[int, float] = {}
    for similarity, i, j in sorted(_pairs(rows, unit(vectors), threshold), reverse=True):
        a, b = root(i), root(j)
        if a != b:  # the best pairs come first, so that this is the weakest link so far
            parents[max(a, b)] = min(a, b)
            least[min(a, b)] = similarity
    members = defaultdict(list)
    for i in range(len(rows)):
        members[root(i)].append(i)
    groups = [
        Group(tuple(some), len({rows[i].sha256 for i in some}) == 1, least[first])
        for first, some in members.items()
        if len(some) > 1
    ]
    return sorted(groups, key=lambda group: (not group.exact, -group.similarity, group.rows))


def _pairs(rows: Sequence[Row], vectors: np.ndarray, threshold: float) -> list[tuple[float, int, int]]:
    pairs = []
    for start, block in blocks(vectors, vectors):
        similar = 1 - block
        for i, j in np.argwhere(similar >= threshold):
            if start + i < j:
                pairs.append((min(1.0, float(similar[i, j])), int(start + i), int(j)))
    firsts: dict[str, int] = {}
    for i, row in enumerate(rows):
        first = firsts.setdefault(row.sha256, i)
        if first != i:
            pairs.append((1.0, first, i))
    return pairs
