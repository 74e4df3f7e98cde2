"""Which model vectors came from: two tables of different models must never be mixed."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eyesel.classifier import ImageClassifier
from eyesel.weights.files import find_weights
from eyesel.weights.hub import resolve

Pool = Literal["cls", "mean"]


@dataclass(frozen=True)
class Identity:
    """What decides about a vector: the weights, the picture size and the pooling. The name may change."""

    name: str
    weights: str  # the first sixteen digits of the SHA-256 of its files
    pool: Pool
    height: int  # pixels that the model sees
    width: int
    dim: int

    @property
    def key(self) -> tuple[str, str, int, int, int]:
        return self.weights, self.pool, self.height, self.width, self.dim

    def __str__(self) -> str:
        return f"{self.name} ({self.width}x{self.height}, {self.pool}, weights {self.weights[:8]})"


def identity_of(classifier: ImageClassifier, pool: Pool = "cls", offline: bool = False) -> Identity:
    """Reads the files of the model's weights, a second for each gigabyte or so."""
    path = resolve(classifier.name, kind="classifier", offline=offline)
    local = Path(classifier.name).expanduser().exists()
    height, width = classifier.model.config.image_size
    return Identity(
        str(path.resolve()) if local else classifier.name,
        weights_hash(path),
        pool,
        height,
        width,
        classifier.model.config.dim,
    )


def weights_hash(path: Path) -> str:
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else find_weights(path):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]
