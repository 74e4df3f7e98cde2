"""How far pictures lie from their nearest neighbours: the odd ones of a set, and anomalies beside good ones.

The distance to the k nearest good pictures as a score of anomaly is that of Bergman et al. 2020 (DN2) and, with a ViT,
of Reiss et al. 2021.
"""

from collections.abc import Collection, Sequence

import numpy as np

from eyesel.search.distances import nearest, unit

GOOD_SHARE = 0.95  # of the good pictures lie within the threshold


def spread(vectors: np.ndarray, k: int = 3) -> np.ndarray:
    """(B,): the mean cosine distance of each to its `k` nearest others. Raises `SettingError` for too few."""
    units = unit(vectors)
    return nearest(units, units, k, without_itself=True)[1].mean(1)


def anomaly(good: np.ndarray, new: np.ndarray, k: int = 3) -> np.ndarray:
    """(B,): the mean cosine distance of each of `new` (B, dim) to its `k` nearest of `good` (G, dim)."""
    return nearest(unit(new), unit(good), k)[1].mean(1)


def threshold(good: np.ndarray, k: int = 3) -> float:
    """The distance within which 95 % of the good lie from the rest of the good."""
    return float(np.quantile(spread(good, k), GOOD_SHARE))


def auroc(scores: np.ndarray, odd: np.ndarray) -> float | None:
    """The chance that an odd one (`odd`, bool) scores above a normal one, ties counting half; None unless there are
    both. Scores and `odd` are (B,).
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[place]  # mean rank of the tied, from 1
    count = int(odd.sum())
    if count in (0, len(odd)):
        return None
    return float((ranks[odd].sum() - count * (count + 1) / 2) / (count * (len(odd) - count)))


def auroc_by_label(scores: np.ndarray, labels: Sequence[str | None], good: Collection[str | None]) -> float | None:
    """The same of labelled pictures: normal are those labelled "good", or as one of the good pictures is.

    Pictures without a label do not count.
    """
    told = np.array([label is not None for label in labels])
    odd = np.array([label != "good" and label not in good for label in labels])
    return auroc(scores[told], odd[told])
