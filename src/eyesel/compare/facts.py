"""What a model is, from its files alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyesel.errors import CheckpointError, SettingError
from eyesel.weights.card import read_card
from eyesel.weights.describe import describe
from eyesel.weights.hub import BUNDLED, Kind, resolve

KINDS: dict[str, tuple[Kind, ...]] = {
    "classifier": ("classifier", "classifier"),
    "painter": ("painter", "painter"),
    "classifier,painter": ("classifier", "painter"),
    "painter,classifier": ("painter", "classifier"),
}


@dataclass(frozen=True)
class Facts:
    """None is unknown."""

    name: str
    kind: Kind
    path: Path
    type: str
    parameters: int
    bytes: int
    stored: str
    licence: str | None
    tags: tuple[str, ...]


def both(names: tuple[str, str], kinds: str | None = None, offline: bool = False) -> tuple[Facts, Facts]:
    """Facts about two models. `kinds`, a key of `KINDS`, says which half of a bundled name is meant; by default that
    of the other model, or the classifier. Raises `CheckpointError` for what is neither.
    """
    if kinds is not None and kinds not in KINDS:
        raise SettingError(f"kind is {kinds!r}; it is one of {', '.join(KINDS)}.")
    told = [None if name in BUNDLED else kind_of(resolve(name, offline=offline)) for name in names]
    usual: Kind = next(filter(None, told), "classifier")
    wanted = KINDS[kinds] if kinds else tuple(kind or usual for kind in told)
    for name, kind, want in zip(names, told, wanted, strict=True):
        if kind not in (None, want):
            raise SettingError(f"{name} is a {kind}, not a {want}: leave out --kind, or change it.")
    first, second = (facts(name, kind, offline) for name, kind in zip(names, wanted, strict=True))
    return first, second


def facts(name: str, kind: Kind, offline: bool = False) -> Facts:
    path = resolve(name, kind=kind, offline=offline)
    told, card = describe(path), read_card(path)
    parts = [part for part in told.get("parts", {}).values() if "parameters" in part]
    weighty = [told] if "parameters" in told else parts
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Facts(
        name,
        kind,
        path,
        str(told["is"]),
        sum(part["parameters"] for part in weighty),
        sum(file.stat().st_size for file in files),
        ", ".join(dict.fromkeys(part["stored as"] for part in weighty)),
        card.licence,
        card.tags,
    )


def kind_of(path: Path) -> Kind:
    """Whether a folder or file is a classifier or a painter."""
    told: dict[str, Any] = describe(path)
    family = str(told["is"])
    if "Stable Diffusion" in family and not family.endswith(("alone", "LoRA")):
        return "painter"
    if family.startswith(("a Vision Transformer", "a timm")):
        return "classifier"
    raise CheckpointError(f"{path} is {family}, neither a classifier nor a painter: compare those.")
