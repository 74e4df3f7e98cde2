"""The models of a server: known by name, loaded when they are asked for, the least recently used unloaded.

Weights that are kept as the file has them are views of the mapped file, which several processes share.
"""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from torch import nn

from eyesel.classifier import ImageClassifier
from eyesel.serve.errors import ApiError
from eyesel.serve.options import ServerOptions
from eyesel.stable_diffusion import StableDiffusion
from eyesel.weights.hub import ASSETS, BUNDLED, Kind, resolve
from eyesel.weights.kind import kind_of_file
from eyesel.weights.library import Library

Model = ImageClassifier | StableDiffusion


@dataclass(frozen=True)
class ModelCard:
    """A model that can be asked for by `id`; `size` is that of its files in bytes, `created` in seconds of Unix."""

    id: str
    kind: Kind
    created: int
    size: int
    name: str  # as `load` takes it
    path: Path


class ModelPool:
    """Raises `CheckpointError` for a name that stands for no model; what is in its files shows when it is loaded."""

    def __init__(self, options: ServerOptions) -> None:
        self._options, self._limit = options, options.limits.memory
        named = dict.fromkeys(options.models)  # each once
        self._named = _apart([card for name in named for card in _cards_of(name, options.offline)])
        self.refresh()
        self._loaded: OrderedDict[tuple[Kind, str], tuple[Model, int]] = OrderedDict()
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Look for checkpoints in the folder of models again; blocks."""
        library = Library.open(self._options.models_dir)
        known = {card.path for card in self._named}
        found = {} if library is None else library.checkpoints()
        self._cards = self._named + [
            _card(name, str(path), "painter", path) for name, path in found.items() if path not in known
        ]

    def cards(self) -> list[ModelCard]:
        return list(self._cards)

    def card(self, id: str, kind: Kind) -> ModelCard:
        """Raises a 404 for one that has gone since it was resolved."""
        for card in self._cards:
            if (card.id, card.kind) == (id, kind):
                return card
        raise ApiError(404, f"The model {id!r} is not served here any more.", "model", "model_not_found")

    def resolve(self, name: str | None, kind: Kind) -> str:
        """The id of a model of that kind; None is the first one, and so are the aliases, for painters."""
        ids = [card.id for card in self._cards if card.kind == kind]
        by_name = {card.name: card.id for card in self._cards if card.kind == kind}
        if name in ids:
            return str(name)
        if name in by_name:
            return by_name[str(name)]
        aliased = kind == "painter" and name in self._options.aliases
        if ids and (name is None or aliased):
            return ids[0]
        other = next((card.kind for card in self._cards if card.id == name), None)
        if name is None:
            raise ApiError(404, f"No {kind} is served here.", "model", "model_not_found")
        near = get_close_matches(name, ids, 1) or ids[:5]
        said = f"is a {other} and not a {kind}" if other else "is not served here"
        raise ApiError(
            404, f"The model {name[:200]!r} {said}: choose {', '.join(near) or 'another'}.", "model", "model_not_found"
        )

    def peek(self, id: str, kind: Kind) -> Any:
        """The model if it is loaded, else None."""
        with self._lock:
            found = self._loaded.get((kind, id))
        return None if found is None else found[0]

    def get(self, id: str, kind: Kind) -> Any:
        """The model, loaded if need be, by the thread that computes. Raises `EyeselError` and `ApiError`."""
        with self._lock:
            if (kind, id) in self._loaded:
                self._loaded.move_to_end((kind, id))
                return self._loaded[kind, id][0]
        card = self.card(id, kind)
        self._make_room(card.size, id)
        model = self._load(card)
        size = _bytes_of(model)
        self._make_room(size, id)
        with self._lock:
            self._loaded[kind, id] = model, size
        return model

    def forget(self, id: str, kind: Kind) -> None:
        """Unload a model, if it is loaded."""
        with self._lock:
            self._loaded.pop((kind, id), None)

    def loaded(self) -> dict[tuple[Kind, str], int]:
        """Bytes of the weights of each model that is loaded."""
        with self._lock:
            return {key: size for key, (_, size) in self._loaded.items()}

    def _make_room(self, size: int, id: str) -> None:
        if self._limit is None:
            return
        if size > self._limit:
            raise ApiError(
                400,
                f"The model {id!r} takes {size:,} bytes, more than the {self._limit:,} of this server.",
                "model",
                "model_too_large",
            )
        with self._lock:
            while self._loaded and sum(each for _, each in self._loaded.values()) + size > self._limit:
                self._loaded.popitem(last=False)

    def _load(self, card: ModelCard) -> Model:
        o = self._options
        if card.kind == "classifier":
            return ImageClassifier.load(card.name, device=o.device, precision=o.precision, offline=o.offline)
        return StableDiffusion.load(
            card.name, device=o.device, precision=o.precision, models_dir=o.models_dir, offline=o.offline
        )


def _cards_of(name: str, offline: bool) -> list[ModelCard]:
    if name in BUNDLED:
        kinds: tuple[Kind, ...] = ("classifier", "painter")
        return [_card(name, name, kind, ASSETS / name / kind) for kind in kinds]
    path = resolve(name, offline=offline)
    local = Path(name).expanduser().exists()
    return [_card(Path(name).expanduser().resolve().stem if local else name, name, _kind(path), path)]


def _apart(cards: list[ModelCard]) -> list[ModelCard]:
    """With ids that tell all of one kind apart: where names of folders are the same, they have those above them."""
    ids, above = [card.id for card in cards], [_above(card) for card in cards]
    while True:
        named = list(zip(ids, (card.kind for card in cards), strict=True))
        alike = [i for i, name in enumerate(named) if above[i] and named.count(name) > 1]
        if not alike:
            return [replace(card, id=id) for card, id in zip(cards, ids, strict=True)]
        for i in alike:
            ids[i] = f"{above[i].pop()}/{ids[i]}"


def _above(card: ModelCard) -> list[str]:
    """The names of the folders that a model is in; none if it goes by a name of its own."""
    given = Path(card.name).expanduser()
    return list(given.resolve().parts[1:-1]) if card.name not in BUNDLED and given.exists() else []


def _kind(path: Path) -> Literal["classifier", "painter"]:
    if path.is_dir():
        return "painter" if (path / "model_index.json").is_file() else "classifier"
    return "painter" if path.suffix != ".npz" and kind_of_file(path) == "checkpoint" else "classifier"


def _card(id: str, name: str, kind: Kind, path: Path) -> ModelCard:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return ModelCard(id, kind, int(path.stat().st_mtime) or int(time.time()), size, name, path)


def _bytes_of(model: Model) -> int:
    if isinstance(model, ImageClassifier):
        parts: list[nn.Module] = [model.model]
    else:
        parts = [model.unet, model.autoencoder, *model.text_encoders]
    return sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
