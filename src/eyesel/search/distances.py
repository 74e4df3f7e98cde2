"""Vectors of length 1, their cosine distances, and the nearest of them: exact, in NumPy, a block of rows at a time."""

from collections.abc import Iterator

import numpy as np

from eyesel.errors import SettingError

BLOCK = 1024  # rows that are compared with all others at once


def unit(vectors: np.ndarray) -> np.ndarray:
    """(B, dim) scaled to length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def blocks(queries: np.ndarray, vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Cosine distances of unit vectors: the first row of a block, and the block (b, B)."""
    for start in range(0, len(queries), BLOCK):
        yield start, 1 - queries[start : start + BLOCK] @ vectors.T


def nearest(
    queries: np.ndarray, vectors: np.ndarray, k: int, without_itself: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` nearest of unit vectors (B, dim) to each query: their numbers (Q, k) and distances (Q, k), nearest first.

    `without_itself`: the queries are the vectors, and none is its own neighbour.
    """
    most = len(vectors) - without_itself
    if not 1 <= k <= most:
        raise SettingError(f"{k} neighbours are asked for, and there are {most} pictures to choose from.")
    numbers, distances = [], []
    for start, block in blocks(queries, vectors):
        if without_itself:
            block[np.arange(len(block)), start + np.arange(len(block))] = np.inf
        some = np.argpartition(block, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(block, some, 1)
        order = np.argsort(near, axis=1, kind="stable")
        numbers.append(np.take_along_axis(some, order, 1))
        distances.append(np.take_along_axis(near, order, 1))
    return np.concatenate(numbers), np.concatenate(distances)
