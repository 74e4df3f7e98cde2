"""Which pictures each model is judged on, and what of them has to be left out."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eyesel.classifier import ImageClassifier
from eyesel.compare.facts import Facts
from eyesel.compare.quality import Quality, judge, labelled, read_prompts, seen
from eyesel.errors import SettingError
from eyesel.stable_diffusion import StableDiffusion

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]


@dataclass(frozen=True)
class Loading:
    """How models are loaded."""

    device: str = "auto"
    precision: str = "auto"

    def classifier(self, name: str | Path) -> ImageClassifier:
        return ImageClassifier.load(name, device=self.device, precision=self.precision)

    def painter(self, name: str | Path) -> StableDiffusion:
        return StableDiffusion.load(name, device=self.device, precision=self.precision)


def classifiers(
    facts: Sequence[Facts], data: Path | None, batch_size: int, loading: Loading, progress: Progress
) -> tuple[list[Quality | None], tuple[str, ...], list[str]]:
    """The quality of each (None for painters, and without data), the labels of the pictures, and notes."""
    if data is None:
        return [None] * len(facts), (), []
    if not data.is_dir():
        raise SettingError(f"{data} is no folder: give one whose folders are named by labels.")
    opened = {i: loading.classifier(fact.path) for i, fact in enumerate(facts) if fact.kind == "classifier"}
    if not opened:
        raise SettingError("--data is for classifiers, and these are painters: give --prompts.")
    notes = []
    for i, classifier in [*opened.items()]:
        if classifier.default_function != "softmax":
            notes.append(f"{facts[i].name} does not choose one label a picture, so its accuracy is unknown")
            del opened[i]
    if not opened:
        return [None] * len(facts), (), notes
    pictures = labelled(data, list(opened.values()))
    for i, classifier in opened.items():
        if unknown := pictures.unknown[classifier.name]:
            named = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            notes.append(f"{facts[i].name} does not know {len(unknown)} of the labels ({named}), which were left out")
    if pictures.without:
        notes.append(f"{pictures.without} pictures without a label were left out")
    qualities: list[Quality | None] = [None] * len(facts)
    with progress("classifying", len(opened) * len(pictures.files)) as advance:
        for i, classifier in opened.items():
            qualities[i] = judge(classifier, pictures, batch_size, advance)
    return qualities, tuple(pictures.labels), notes


def painters(
    facts: Sequence[Facts], prompts: Path | None, judge: str, batch_size: int, loading: Loading, progress: Progress
) -> tuple[list[np.ndarray | None], list[str]]:
    """Of each prompt, whether the judge sees its object, painted at each painter's own settings; and notes."""
    found: list[np.ndarray | None] = [None] * len(facts)
    if prompts is None:
        return found, []
    if all(fact.kind == "classifier" for fact in facts):
        raise SettingError("--prompts is for painters, and these are classifiers: give --data.")
    eye = loading.classifier(judge)
    asked = read_prompts(prompts, eye)
    with progress("painting", len(asked) * sum(fact.kind == "painter" for fact in facts)) as advance:
        for i, fact in enumerate(facts):
            if fact.kind == "painter":
                painter = loading.painter(fact.path)
                found[i] = seen(painter, eye, asked, batch_size, advance)
    return found, [f"{judge} looked at {len(asked)} painted prompts, and may itself be wrong"]
