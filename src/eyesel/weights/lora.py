"""LoRAs applied to the models of a painter, which stay as they are: what comes back are replicas."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eyesel.errors import SettingError
from eyesel.fields import plain
from eyesel.models.clip_text import ClipText
from eyesel.models.unet import UNet
from eyesel.nn.adapted import adapted
from eyesel.nn.lora import Change
from eyesel.weights.lora_file import open_lora
from eyesel.weights.lora_spelling import PARTS, targets
from eyesel.weights.textual_inversion import Embedding, bundled

MAX_WEIGHT = 100.0


class LoraFile(NamedTuple):
    """A LoRA to paint with, and how strongly it acts on the text encoders and on the UNet (None: as strongly)."""

    path: str | Path
    text_weight: float = 1.0
    unet_weight: float | None = None

    @property
    def both(self) -> tuple[float, float]:
        """On the text encoders, and on the UNet."""
        return self.text_weight, self.text_weight if self.unet_weight is None else self.unet_weight


LoraLike = str | Path | tuple[str | Path, float] | tuple[str | Path, float, float | None]  # a LoraFile is one


class Adapted(NamedTuple):
    """The models of a painter with LoRAs, and the words that these brought along."""

    unet: UNet
    text_encoders: list[ClipText]
    words: list[Embedding]


def with_loras(unet: UNet, text_encoders: Sequence[ClipText], loras: Sequence[LoraLike], fuse: bool = True) -> Adapted:
    """Replicas of a painter's models with LoRAs applied, in order; a model that none of them changes is given back.

    `fuse` makes new weights, in float32 and then of the weight's own type; otherwise low-rank changes stay apart
    (`eyesel.nn.adapted`). Weights may be 0 or negative, and the same file may come twice. Raises `CheckpointError`
    where a file cannot be used with these models, `SettingError` for weights.
    """
    if isinstance(loras, str | Path):
        raise SettingError(f"LoRAs are a list, such as [{str(loras)!r}].")
    models = dict(zip(PARTS, (unet, *text_encoders), strict=False))
    changes: dict[str, dict[str, list[tuple[Change, float]]]] = {part: {} for part in models}
    known = targets(unet, text_encoders)
    words = []
    for lora in map(lora_file, loras):
        on_text, on_unet = lora.both
        strengths = {part: _strength(on_unet if part == "unet" else on_text) for part in models}
        stored = open_lora(lora.path)
        for part, found in stored.changes(unet, text_encoders, known).items():
            for name, change in found.items() if strengths[part] else ():
                changes[part].setdefault(name, []).append((change, strengths[part]))
        words += [bundled(word, vectors, stored.where) for word, vectors in stored.words.items()]
    return Adapted(
        adapted(unet, changes["unet"], fuse) if changes["unet"] else unet,
        [
            adapted(encoder, own, fuse) if (own := changes[part]) else encoder
            for part, encoder in zip(PARTS[1:], text_encoders, strict=False)
        ],
        words,
    )


def lora_file(lora: Any) -> LoraFile:
    """A LoRA however it was given."""
    wanted = (lora,) if isinstance(lora, str | Path) else lora
    if not isinstance(wanted, tuple | list) or not 1 <= len(wanted) <= 3 or not isinstance(wanted[0], str | Path):
        raise SettingError(f"a LoRA is {lora!r}; it must be a path, or a path and its weights (path, text, UNet).")
    return LoraFile(*wanted)


def _strength(weight: Any) -> float:
    weight = plain(weight)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) <= MAX_WEIGHT:
        raise SettingError(
            f"the weight of a LoRA is {weight!r}; it must be a number from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}."
        )
    return float(weight)
