"""What the eye gives back when it is asked what it looked at: numbers, pictures, files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from eyesel.images import WRITABLE, check_writable, save_image, written_whole
from eyesel.taps.overlay import enlarged, overlay
from eyesel.taps.sheet import sheet

WRITABLE_MAPS = (*WRITABLE, ".npy")
CELLS_A_ROW = 7  # of a sheet of layers or heads alone
SIDE, SMALL_SIDE = 256, 160  # pixels of a picture on such a sheet, and on one of layers and heads


@dataclass(frozen=True, eq=False)
class Attention:
    """What a classifier looked at in one picture.

    `heat` (rows, columns) says how much it looked at each patch; where each layer or each head was asked for, it has
    (layers,) or (heads,) or both in front; for `pca` it has colours (3,) behind. `image` is what the heat lies on: the
    picture, or what was cut from it for the network.

    `maps` is what was read of every layer that it took. For `attention` and `rollout` these are the probabilities
    (layers, heads, tokens, tokens), for `gradient-rollout` times the class's gradient where that is positive; for
    `gradcam` the signed class activations (layers, tokens), for `norms` (layers, tokens), and for `pca` the features
    (layers, tokens, dim). The class token and its like come before the patches.

    `target` is the label that `gradient-rollout` and `gradcam` looked for. `outliers` (rows, columns), with (layers,)
    in front like `heat`, marks the tokens of high norm; it is there for `norms` and where outliers were masked.
    """

    maps: Tensor
    heat: Tensor
    image: Image.Image
    method: str = "rollout"
    layers: tuple[int, ...] = ()  # one a map, where each was asked for
    heads: tuple[int, ...] = ()
    target: str | None = None
    outliers: Tensor | None = None

    def overlay(self, opacity: float | None = None) -> Image.Image:
        """The picture under its heat map; small pictures are enlarged. Several maps become a sheet with titles.

        `norms` shows the outliers framed. The default opacity is 0.5; the colours of `pca` are shown alone.
        """
        if opacity is None:
            opacity = 1.0 if self.method == "pca" else 0.5
        if not self.layers and not self.heads:
            return self._overlay((), opacity)
        if self.layers and self.heads:
            rows = [[self._cell((i, j), opacity) for j in range(len(self.heads))] for i in range(len(self.layers))]
            return sheet(rows, SMALL_SIDE)
        cells = [("picture", enlarged(self.image))]
        cells += [self._cell((i,), opacity) for i in range(len(self.layers or self.heads))]
        return sheet([cells[i : i + CELLS_A_ROW] for i in range(0, len(cells), CELLS_A_ROW)], SIDE)

    def save(self, path: str | Path, opacity: float | None = None) -> None:
        """Write the overlay as PNG, JPEG or WebP, or `heat` as an array in a `.npy` file, all of it or nothing."""
        if check_writable(path, WRITABLE_MAPS).suffix.lower() != ".npy":
            save_image(self.overlay(opacity), path)
            return
        with written_whole(path) as trial, trial.open("xb") as file:
            np.save(file, self.heat.numpy())

    def _cell(self, index: tuple[int, ...], opacity: float) -> tuple[str, Image.Image]:
        names = [f"layer {i}" for i in self.layers], [f"head {i}" for i in self.heads]
        title = ", ".join(axis[i] for axis, i in zip(filter(None, names), index, strict=True))
        return title, self._overlay(index, opacity)

    def _overlay(self, index: tuple[int, ...], opacity: float) -> Image.Image:
        marked = None
        if self.method == "norms" and self.outliers is not None:
            marked = self.outliers[index]
        return overlay(self.image, self.heat[index], opacity, marked)
