"""The labels of a classifier, as its config.json names them."""

import warnings
from collections.abc import Mapping
from typing import Any

from eyesel.errors import CheckpointError


def labels_of(config: Mapping[str, Any], classes: int) -> list[str]:
    """One label a class: of transformers' id2label or timm's label_names, else LABEL_0, LABEL_1, ...

    What does not fit is said in a warning: no labels, too few or too many, a label2id that says otherwise. Raises
    `CheckpointError` for what names no labels at all.
    """
    described = config.get("pretrained_cfg")
    described = described if isinstance(described, Mapping) else {}
    listed = config.get("label_names") or config.get("labels") or described.get("label_names")
    named = config.get("id2label") or (dict(enumerate(listed)) if isinstance(listed, list) else listed or {})
    if not isinstance(named, Mapping) or not all(isinstance(i, int) or _is_number(i) for i in named):
        raise CheckpointError(f"id2label is {str(named)[:100]!r}; it must name the labels by their numbers.")
    labels = {int(i): str(label) for i, label in named.items()}
    if not classes:
        return []
    if beyond := [f"{i} ({label})" for i, label in labels.items() if not 0 <= i < classes]:
        shown = ", ".join(beyond[:3]) + (", ..." if len(beyond) > 3 else "")
        warnings.warn(f"The head has {classes} classes, and there are labels beyond them: {shown}.", stacklevel=2)
    if unnamed := [i for i in range(classes) if i not in labels]:
        which = "no labels" if len(unnamed) == classes else f"no label for {len(unnamed)} of its {classes} classes"
        warnings.warn(f"The head has {which}; they are called LABEL_{unnamed[0]} and so on.", stacklevel=2)
    _check_agreement(labels, config.get("label2id") if config.get("id2label") else None)
    return [labels.get(i, f"LABEL_{i}") for i in range(classes)]


def _check_agreement(labels: Mapping[int, str], numbers: Any) -> None:
    if not isinstance(numbers, Mapping):
        return
    for label, i in numbers.items():
        if labels.get(int(i) if isinstance(i, int) or _is_number(i) else -1) != label:
            warnings.warn(
                f"id2label and label2id disagree about {label!r}; id2label is believed, as in transformers.",
                stacklevel=3,
            )
            return


def _is_number(text: Any) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) < 20
