"""Curves and the confusion matrix as PNG, drawn by matplotlib without its global state."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_BLUE, _ORANGE, _FAINT = "#3f7fbf", "#d9822b", "#dddddd"
_MOST_NUMBERS = 25  # classes up to which cells are labelled and counted


def plot_curves(path: Path, history: Sequence[Mapping[str, Any]], measures: Mapping[str, str] | None = None) -> None:
    """Losses by step, and beside them each of `measures` (name of the metric: title), shares of 1.

    `history` are rows as in `metrics.jsonl`.
    """
    measures = {name: title for name, title in (measures or {}).items() if any(name in row for row in history)}
    figure = Figure(figsize=(5.5 * (1 + len(measures)), 4), layout="constrained")
    axes = figure.subplots(1, 1 + len(measures), squeeze=False)[0]
    for name, label, colour in (("loss", "training", _BLUE), ("eval_loss", "validation", _ORANGE)):
        _curve(axes[0], history, name, label, colour)
    axes[0].margins(y=0.1)
    axes[0].set(title="loss", xlabel="step", ylim=(0, None))
    if axes[0].lines:
        axes[0].legend(frameon=False)
    for axis, (name, title) in zip(axes[1:], measures.items(), strict=True):
        _curve(axis, history, name, title, _ORANGE)
        axis.set(title=title, xlabel="step")
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, 0), min(high, 1))
        for line in axis.lines:
            line.set_clip_on(False)  # a point at 100 % is whole
        axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    for axis in axes:
        axis.set_xlim(left=0)
        axis.grid(color=_FAINT)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in letters that the font has not
        figure.savefig(path, dpi=120, metadata={"Software": None})


def _curve(axis: Any, history: Sequence[Mapping[str, Any]], name: str, label: str, colour: str) -> None:
    points = [(row["step"], row[name]) for row in history if name in row]
    if points:
        axis.plot(*zip(*points, strict=True), label=label, color=colour, marker="." if len(points) < 40 else "")


def plot_confusion(path: Path, counts: np.ndarray, labels: Sequence[str]) -> None:
    """`counts` (classes, classes): rows are what pictures are, columns what the model says; coloured by row."""
    counts = np.asarray(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    few = len(labels) <= _MOST_NUMBERS
    side = min(max(0.42 * len(labels), 3), 14) + 1.8
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="true", title=f"{np.trace(counts)} of {counts.sum()} right")
    if few or len(labels) <= 120:
        size = 9 if few else 5
        axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size, parse_math=False)
        axis.set_yticks(range(len(labels)), labels, fontsize=size, parse_math=False)
    if few:
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8)
    _save(figure, path)
