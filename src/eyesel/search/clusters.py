"""Groups of pictures by their vectors: k-means with k chosen by the silhouette, HDBSCAN, and places on a plane.

Vectors are scaled to length 1 first, where Euclidean distances order as cosine distances do.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from eyesel.errors import SettingError
from eyesel.search import check_installed
from eyesel.search.distances import unit

Method = Literal["kmeans", "hdbscan"]

SAMPLE = 2000  # pictures by which k is chosen
MOST_ON_MAP = 3000  # pictures for which t-SNE is used; more are laid out by PCA


@dataclass(frozen=True, eq=False)
class Clusters:
    """`labels` (B,) counts from 0, the largest cluster first; -1 belongs to none (HDBSCAN)."""

    labels: np.ndarray
    silhouettes: dict[int, float]  # by k, where k was chosen

    @property
    def count(self) -> int:
        return int(self.labels.max(initial=-1)) + 1


def kmeans(vectors: np.ndarray, k: int | None = None, most: int = 100, seed: int = 0) -> Clusters:
    """k-means; without `k`, that of 2 to `most` whose mean silhouette (Rousseeuw 1987) is the highest.

    Up to 12 every number is tried, then steps of an eighth or so. Raises `SettingError` for fewer pictures than k + 1.
    """
    check_installed()
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    units = unit(vectors)
    if k is not None and not 2 <= k < len(units):
        raise SettingError(f"k is {k}; of {len(units)} pictures 2 to {len(units) - 1} clusters can be made.")
    if len(units) < 4:
        raise SettingError(f"{len(units)} pictures are too few to find clusters in; give at least 4.")
    silhouettes = {}
    if k is None:
        some = np.random.default_rng(seed).permutation(len(units))[:SAMPLE]
        for count in _counts(min(most, len(some) // 2)):
            labels = KMeans(count, n_init=3, random_state=seed).fit_predict(units[some])
            silhouettes[count] = float(silhouette_score(units[some], labels))
        k = max(silhouettes, key=lambda count: silhouettes[count])
    return Clusters(_by_size(KMeans(k, n_init=10, random_state=seed).fit_predict(units)), silhouettes)


def hdbscan(vectors: np.ndarray, least: int = 5) -> Clusters:
    """HDBSCAN (Campello et al. 2013): as many clusters of at least `least` pictures as there are; the rest is noise."""
    check_installed()
    from sklearn.cluster import HDBSCAN

    if not 2 <= least <= len(vectors):
        raise SettingError(f"the least size of a cluster is {least}; of {len(vectors)} pictures it can be 2 and up.")
    return Clusters(_by_size(HDBSCAN(min_cluster_size=least, copy=True).fit_predict(unit(vectors))), {})


def places(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """Where pictures lie on a plane, (B, 2) from 0 to 1: t-SNE (van der Maaten & Hinton 2008), PCA of many."""
    check_installed()
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    units = unit(vectors)
    if len(units) < 3:
        raise SettingError(f"{len(units)} pictures make no map; give at least 3.")
    if len(units) <= MOST_ON_MAP:
        layout = TSNE(perplexity=min(30, (len(units) - 1) / 3), init="pca", metric="cosine", random_state=seed)
        flat = layout.fit_transform(units)
    else:
        flat = PCA(2, random_state=seed).fit_transform(units)
    low, high = flat.min(0), flat.max(0)
    return (flat - low) / np.maximum(high - low, 1e-12)


def _counts(most: int) -> list[int]:
    counts = list(range(2, min(most, 12) + 1))
    while counts[-1] + (step := max(1, counts[-1] // 8)) <= most:
        counts.append(counts[-1] + step)
    return counts


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Numbered anew, the largest first; noise keeps -1."""
    numbers, counts = np.unique(labels[labels >= 0], return_counts=True)
    order = numbers[np.argsort(-counts, kind="stable")]
    new = {int(old): i for i, old in enumerate(order)}
    return np.array([new.get(int(old), -1) for old in labels])
