"""What an eye is made of, and what it does with a batch of pixels; `ImageClassifier` is what people meet."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from eyesel.errors import CheckpointError, SettingError
from eyesel.fields import plain
from eyesel.images import ImageTransform, Names, Source, open_image
from eyesel.models.vit import Pool, ViT
from eyesel.stream import Answer, stream

T = TypeVar("T")

Function = Literal["softmax", "sigmoid", "none"]
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
    "none": lambda logits: logits,
}


@dataclass(frozen=True)
class Prediction:
    """A label and its score: a share of 1, or the raw number of a regression."""

    label: str
    score: float


class Eye:
    """Weights and configuration; nothing of a call."""

    def __init__(
        self,
        model: ViT,
        transform: ImageTransform,
        labels: Sequence[str],
        problem_type: str = "single_label_classification",
        name: str = "",
    ) -> None:
        if problem_type not in PROBLEM_TYPES:
            raise SettingError(f"problem_type {problem_type!r} is unknown; it is one of {', '.join(PROBLEM_TYPES)}.")
        self.model, self.transform, self.labels = model, transform, tuple(labels)
        self.problem_type, self.name = problem_type, name
        self.device = model.patch_embeddings.weight.device
        self.dtype = model.patch_embeddings.weight.dtype

    def fingerprint(self) -> str:
        """Sixteen digits that tell this model, its preprocessing and labels from others, by a part of its weights."""
        known = (self.model.config, self.transform, self.labels, self.problem_type, self.dtype)
        digest = hashlib.sha256(repr(known).encode())
        for name, tensor in self.model.state_dict().items():
            part = tensor.flatten()[:: max(tensor.numel() // 1024, 1)]
            digest.update(name.encode() + part.float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def default_function(self) -> Function:
        """What makes scores of logits, chosen as in transformers: a single class cannot share its score with others."""
        if self.problem_type == "regression":
            return "none"
        alone = self.problem_type == "multi_label_classification" or self.model.config.classes == 1
        return "sigmoid" if alone else "softmax"

    def class_number(self, wanted: int | str) -> int:
        """The number of a class by its number, its label, or one of the words for it that a label lists."""
        text = str(wanted).strip().casefold()
        if text.isdecimal() and int(text) < len(self.labels):
            return int(text)
        whole = [i for i, label in enumerate(self.labels) if label.casefold() == text]
        listed = [i for i, label in enumerate(self.labels) if text in label.casefold().split(", ")]
        for found in (whole, listed):
            if len(found) == 1:
                return found[0]
        near = get_close_matches(text, [label.casefold() for label in self.labels], n=3)
        known = f"is it {' or '.join(near)}?" if near else f"there are {len(self.labels)}, from {self.labels[0]!r} on."
        raise SettingError(f"{wanted!r} is no class of this model; {known}")

    def _layer(self, layer: int, final_norm: bool | None) -> tuple[int, bool]:
        """Its index in `hidden_states`, and whether it goes through the final norm."""
        depth = self.model.config.depth
        if not -depth - 1 <= layer <= depth:
            raise SettingError(f"layer is {layer}; this model has layers 0 to {depth}, or -{depth + 1} to -1.")
        return layer % (depth + 1), layer == -1 if final_norm is None else final_norm

    def predictor(self, top_k: int, function_to_apply: Function | None) -> Callable[[Tensor], list[list[Prediction]]]:
        """What makes predictions of pixels (B, 3, H, W)."""
        self.check_question(top_k, function_to_apply)
        return lambda pixels: self.predictions(self.network(pixels), top_k, function_to_apply)

    def check_question(self, top_k: int, function_to_apply: Function | None = None) -> None:
        """Raise `SettingError` where `predictions` cannot be made so."""
        if top_k < 1:
            raise SettingError(f"top_k is {top_k}; it must be at least 1.")
        if function_to_apply is not None and function_to_apply not in _FUNCTIONS:
            raise SettingError(f"function_to_apply is {function_to_apply!r}; it is one of {', '.join(_FUNCTIONS)}.")

    def network(self, pixels: Tensor) -> Tensor:
        """Logits (B, classes) float32 of what `transform` gives, (B, 3, H, W)."""
        with torch.inference_mode():
            logits: Tensor = self.model(pixels.to(self.device, self.dtype)).float()
        return logits

    def predictions(
        self, logits: Tensor, top_k: int = 5, function_to_apply: Function | None = None
    ) -> list[list[Prediction]]:
        """The `top_k` labels of each row of logits (B, classes), best first. `CheckpointError` for no numbers."""
        with torch.inference_mode():
            scores = _FUNCTIONS[function_to_apply or self.default_function](logits).cpu()
        if not scores.isfinite().all():
            raise CheckpointError(f"{self.name} gives scores that are no numbers; try --precision float32.")
        best = scores.topk(min(top_k, scores.shape[1]))
        return [
            [Prediction(self.labels[i], score) for i, score in zip(indices, values, strict=True)]
            for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def embedder(
        self, pool: Pool, layer: int | Sequence[int], final_norm: bool | None, normalize: bool
    ) -> Callable[[Tensor], np.ndarray]:
        """What makes embeddings (B, ...) of what `transform` gives, (B, 3, H, W); see `embed`."""
        if pool not in ("cls", "mean", "none", "grid"):
            raise SettingError(f"pool is {pool!r}; it is one of cls, mean, none, grid.")
        layer = plain(layer)
        layers = [self._layer(i, final_norm) for i in ([layer] if isinstance(layer, int) else layer)]
        if not layers:
            raise SettingError("There are no layers in the list; give at least one.")

        def embedder(pixels: Tensor) -> np.ndarray:
            with torch.inference_mode():
                on_device = pixels.to(self.device, self.dtype)
                vectors = self.model.vectors(on_device, layers, pool)  # (B, L, ...)
                vectors = F.normalize(vectors, dim=-1) if normalize else vectors
            stacked = vectors.cpu().numpy()
            return stacked[:, 0] if isinstance(layer, int) else stacked

        return embedder

    def streamed(
        self,
        images: Names | Iterable[Source],
        network: Callable[[Tensor], Iterable[T]],
        batch_size: int,
        workers: int | None,
        draft: bool,
        thumbnail: int | None = None,
    ) -> Iterator[Answer[T]]:
        return stream(
            images,
            self.transform,
            network,
            batch_size,
            workers,
            draft,
            thumbnail,
        )

    def _pixels(self, pictures: list[Image.Image]) -> Tensor:
        return self.transform(pictures).to(self.device, self.dtype)

    def batches(self, images: Any, batch_size: int) -> Iterator[Tensor]:
        listed = images if isinstance(images, list) else [images]
        if not listed:
            raise SettingError("There are no pictures in the list; give at least one.")
        if batch_size < 1:
            raise SettingError(f"batch_size is {batch_size}; it must be at least 1.")
        for start in range(0, len(listed), batch_size):
            yield self._pixels([open_image(image) for image in listed[start : start + batch_size]])
