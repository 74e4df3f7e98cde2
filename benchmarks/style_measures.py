"""How much of a content a picture keeps, and how much of a style it takes; small is good for all but `similarity`.

The eye sees the pictures: the content by its last layer's patches, the style by the statistics of an early layer (Gatys
et al. 2016; Li et al. 2017), which the painter and its autoencoder know nothing of.
"""

import numpy as np
from PIL import Image

from eyesel import ImageClassifier

EARLY = 2  # of the eye's layers
BINS = 6  # of each colour


def similarity(a: Image.Image, b: Image.Image, window: int = 7) -> float:
    """SSIM (Wang et al. 2004) of the luminance, over windows of 7x7 pixels, as scikit-image has it by default."""
    x, y = (np.asarray(picture.convert("L"), np.float64) for picture in (a, b))
    count = window**2

    def mean(values: np.ndarray) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(values, (window, window)).mean((2, 3))

    mx, my = mean(x), mean(y)
    unbiased = count / (count - 1)
    vx, vy, vxy = (
        (mean(p * q) - mp * mq) * unbiased for p, q, mp, mq in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my))
    )
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float((((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


class Eye:
    """What the measures need of a picture, looked at once."""

    def __init__(self, eye: ImageClassifier) -> None:
        self.eye = eye

    def look(self, picture: Image.Image) -> dict[str, np.ndarray]:
        early = self.eye.embed(picture, pool="none", layer=EARLY)[1:].astype(np.float64)  # (patches, dim)
        late = self.eye.embed(picture, pool="none")[1:].astype(np.float64)
        colours = np.asarray(picture).reshape(-1, 3)
        histogram = np.histogramdd(colours, BINS, [(0, 256)] * 3)[0] / len(colours)
        return {
            "late": late / np.linalg.norm(late, axis=1, keepdims=True),
            "gram": early.T @ early / len(early),
            "moments": np.stack([early.mean(0), early.std(0)]),
            "histogram": histogram,
        }


def content_distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """1 - cosine of the last layer's patches, in the mean."""
    return float(1 - (a["late"] * b["late"]).sum(1).mean())


def style_distances(a: dict[str, np.ndarray], style: dict[str, np.ndarray]) -> dict[str, float]:
    """Of Gram matrices and of means and deviations, relative to the style's; of histograms, Hellinger's, 0 to 1."""
    relative = {
        name: float(np.linalg.norm(a[name] - style[name]) / np.linalg.norm(style[name])) for name in ("gram", "moments")
    }
    overlap = np.sqrt(a["histogram"] * style["histogram"]).sum()
    return {**relative, "colours": float(np.sqrt(max(1 - overlap, 0)))}
