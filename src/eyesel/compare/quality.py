"""How well models do: classifiers on a folder of labelled pictures, painters by what a classifier sees."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eyesel.classifier import ImageClassifier
from eyesel.errors import SettingError
from eyesel.images import find_images
from eyesel.images.labels import folder_labels
from eyesel.stable_diffusion import StableDiffusion

BINS = 15


@dataclass(frozen=True, eq=False)
class Labelled:
    """Pictures with their labels, of those labels that every model knows; `unknown` are those that one does not."""

    files: list[Path]
    labels: list[str]
    unknown: dict[str, list[str]]  # by model
    without: int  # pictures that have no label


@dataclass(frozen=True, eq=False)
class Quality:
    """What a classifier said of B pictures."""

    right: np.ndarray  # (B,) bool
    confidence: np.ndarray  # (B,): the probability of the label that it names first

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def calibration_error(self) -> float:
        return calibration_error(self.confidence, self.right)


def labelled(folder: Path, classifiers: Sequence[ImageClassifier]) -> Labelled:
    """The labelled pictures that all `classifiers` can get right. Raises `SettingError` if there is none."""
    told = folder_labels(folder, find_images(folder))
    names = sorted({label for label in told.values() if label is not None})
    unknown = {each.name: [name for name in names if number_of(name, each.labels) is None] for each in classifiers}
    left_out = {name for some in unknown.values() for name in some}
    pairs = [(file, label) for file, label in told.items() if label is not None and label not in left_out]
    if not pairs:
        raise SettingError(
            f"{folder} has no picture with a label that the models know: put pictures into folders named by labels "
            f"such as {', '.join(classifiers[0].labels[:3])}."
        )
    without = sum(label is None for label in told.values())
    return Labelled([file for file, _ in pairs], [label for _, label in pairs], unknown, without)


def number_of(name: str, labels: Sequence[str]) -> int | None:
    """The class that a folder's name means: a label, or one of the words that a label lists, in any case."""
    wanted = name.strip().casefold().replace("_", " ")
    folded = [label.casefold().replace("_", " ") for label in labels]
    for found in (
        [i for i, label in enumerate(folded) if label == wanted],
        [i for i, label in enumerate(folded) if wanted in label.split(", ")],
    ):
        if len(found) == 1:
            return found[0]
    return None


def judge(
    classifier: ImageClassifier, data: Labelled, batch_size: int = 8, advance: Callable[[], None] = lambda: None
) -> Quality:
    """`advance` is called once a picture."""
    right, confidence = [], []
    for start in range(0, len(data.files), batch_size):
        files = data.files[start : start + batch_size]
        best = classifier.classify(list(files), 1, batch_size, "softmax")
        for (prediction,), label in zip(best, data.labels[start : start + batch_size], strict=True):
            wanted = number_of(label, classifier.labels)
            right.append(wanted is not None and prediction.label == classifier.labels[wanted])
            confidence.append(prediction.score)
            advance()
    return Quality(np.array(right), np.array(confidence))


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al. 2017) over `bins` equal parts of 0 to 1: confidences (B,), bool (B,)."""
    bin_of = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    gaps = [abs(right[bin_of == b].mean() - confidence[bin_of == b].mean()) * (bin_of == b).sum() for b in set(bin_of)]
    return float(sum(gaps) / len(confidence))


def chance(first: np.ndarray, second: np.ndarray) -> float:
    """How probable so unequal a number of wins is among equals: McNemar's exact test, two-sided, of bool (B,) each."""
    wins, losses = int((first & ~second).sum()), int((second & ~first).sum())
    n = wins + losses
    tail = sum(math.comb(n, i) for i in range(min(wins, losses) + 1)) / 2**n
    return min(1.0, 2 * tail)


def read_prompts(path: Path, judge: ImageClassifier) -> list[tuple[str, str]]:
    """(prompt, label) of each line of a text file, with a tab between them. Raises `SettingError`."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise SettingError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    pairs = []
    for line in lines:
        prompt, tab, label = line.rpartition("\t")
        if not tab or number_of(label, judge.labels) is None:
            raise SettingError(
                f"{path} has the line {line[:80]!r}; write a prompt, a tab and a label of {judge.name}, "
                f"such as {judge.labels[0]}."
            )
        pairs.append((prompt, label))
    if not pairs:
        raise SettingError(f"{path} is empty: write a prompt, a tab and a label in each line.")
    return pairs


def seen(
    painter: StableDiffusion,
    judge: ImageClassifier,
    prompts: Sequence[tuple[str, str]],
    batch_size: int = 8,
    advance: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """(B,) bool: whether the judge sees what each prompt asked for, painted from seeds 0, 1, ..., as is usual there."""
    right = []
    for start in range(0, len(prompts), batch_size):
        some = prompts[start : start + batch_size]
        pictures = painter.generate([prompt for prompt, _ in some], seed=start)
        for picture, (_, label) in zip(pictures, some, strict=True):
            (best,) = judge.classify(picture.image, 1)
            wanted = number_of(label, judge.labels)
            right.append(wanted is not None and best.label == judge.labels[wanted])
            advance()
    return np.array(right)
