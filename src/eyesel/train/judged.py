"""How good a classifier is on a split: counts, and the pictures that it gets most wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from eyesel.contact import COLUMNS, ROWS, SIDE, ContactSheet
from eyesel.train.pictures import Pictures


def measures(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Of logits (N, classes): the mean loss, whatever the batches and processes were, the share that is right, and the
    mean over classes of F1.
    """
    judged = Judged(logits, labels)
    return {"loss": judged.loss, "accuracy": judged.accuracy, "f1": judged.f1}


@dataclass(frozen=True, eq=False)
class Judged:
    logits: np.ndarray  # (N, classes)
    labels: np.ndarray  # (N,)

    @cached_property
    def confusion(self) -> np.ndarray:
        """(classes, classes): rows are what pictures are, columns what the model says."""
        classes = self.logits.shape[1]
        cells = self.labels * classes + self.logits.argmax(1)
        return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)

    @property
    def loss(self) -> float:
        """Cross-entropy."""
        logits = self.logits.astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        return float((np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), self.labels]).mean())

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.confusion) / max(self.confusion.sum(), 1))

    @property
    def each_f1(self) -> np.ndarray:
        """(classes,): 2 · right / (what is + what is said), 0 where there is neither."""
        right = np.diag(self.confusion)
        return 2 * right / np.maximum(self.confusion.sum(0) + self.confusion.sum(1), 1)

    @property
    def f1(self) -> float:
        return float(self.each_f1.mean())

    @cached_property
    def scores(self) -> np.ndarray:
        """(N, classes), softmax."""
        shifted = np.exp(self.logits - self.logits.max(1, keepdims=True))
        return shifted / shifted.sum(1, keepdims=True)

    def worst(self, most: int) -> list[int]:
        """The surest mistakes first, then what is right with the lowest scores."""
        said = self.logits.argmax(1)
        sure = self.scores.max(1)
        right = said == self.labels
        return np.lexsort((np.where(right, sure, -sure), right))[:most].tolist()


def save_mistakes(path: Path, judged: Judged, pictures: Pictures, names: Sequence[str], classes: Sequence[str]) -> None:
    """A page of the pictures that the model gets most wrong, or is least sure of, each with what it says."""
    with ContactSheet(classes) as sheet:
        for number in judged.worst(COLUMNS * ROWS):
            said = int(judged.logits[number].argmax())
            small = pictures[number].copy()
            small.thumbnail((SIDE, SIDE))
            place = PurePath(classes[judged.labels[number]]) / PurePath(names[number]).name
            sheet.add(str(place), classes[said], float(judged.scores[number, said]), small)
        sheet.save(path, force=True)


def each_class(judged: Judged, classes: Sequence[str]) -> list[list[Any]]:
    """Rows of a table: class, pictures, how many of them are found, F1."""
    found = np.diag(judged.confusion)
    counts = judged.confusion.sum(1)
    return [
        [label, int(count), int(right), f"{f1:.3f}"]
        for label, count, right, f1 in zip(classes, counts, found, judged.each_f1, strict=True)
    ]
