"""The eye: a Vision Transformer with the labels and the preprocessing that travel with its weights."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eyesel.errors import CheckpointError, SettingError
from eyesel.fields import readable
from eyesel.images import ImageTransform, open_image
from eyesel.models.vit import ViT
from eyesel.taps.maps import AttentionMaps
from eyesel.taps.overlay import overlay
from eyesel.taps.rollout import attention_to_grid, fuse, rollout
from eyesel.weights.checkpoint import open_vit
from eyesel.weights.files import read_json
from eyesel.weights.hub import resolve
from eyesel.weights.placement import choose_device

Pool = Literal["cls", "mean", "none"]
Method = Literal["rollout", "attention"]
T = TypeVar("T")

# How a head's logits become scores; transformers decides by the same key of config.json.
_SCORES = {
    "single_label_classification": lambda logits: logits.softmax(-1),
    "multi_label_classification": torch.sigmoid,
    "regression": lambda logits: logits,
}


@dataclass(frozen=True)
class Prediction:
    label: str
    score: float


@dataclass(frozen=True, eq=False)
class Attention:
    """What a classifier looked at in one picture.

    `maps` (layers, heads, tokens, tokens) holds the probabilities of every recorded layer, token 0 being the class
    token; `heat` (rows, columns) is what the class token drew from each patch; `image` is the picture as it was cut
    for the network.
    """

    maps: Tensor
    heat: Tensor
    image: Image.Image

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """The picture under its heat map; small pictures are enlarged."""
        return overlay(self.image, self.heat, opacity)


class ImageClassifier:
    """Made by `ImageClassifier.load("tiny")`. Calls share only the weights, so threads can share an object."""

    def __init__(
        self,
        model: ViT,
        transform: ImageTransform,
        labels: Sequence[str],
        problem_type: str = "single_label_classification",
        name: str = "",
    ) -> None:
        if problem_type not in _SCORES:
            raise SettingError(f"problem_type {problem_type!r} is unknown; it is one of {', '.join(_SCORES)}.")
        self.model, self.transform, self.labels = model, transform, tuple(labels)
        self.problem_type, self.name = problem_type, name
        self.device = model.patch_embeddings.weight.device
        self.dtype = model.patch_embeddings.weight.dtype

    @classmethod
    def load(
        cls, name: str | Path = "tiny", *, device: str = "auto", precision: str = "auto", offline: bool = False
    ) -> "ImageClassifier":
        """Open `tiny` (bundled), a hub name (`owner/name[@revision]`), a folder or a `.safetensors` file.

        Raises `CheckpointError` for what is not a ViT, `SettingError` for an unknown device or precision.
        """
        path = resolve(name, kind="classifier", offline=offline)
        model, config = open_vit(path, choose_device(device), precision)
        return cls(
            model,
            _transform(path if path.is_dir() else path.parent, config, model),
            _labels(config, model.config.classes),
            config.get("problem_type") or "single_label_classification",
            str(name),
        )

    @overload
    def classify(self, images: list[Any], top_k: int = 5, batch_size: int = 8) -> list[list[Prediction]]: ...
    @overload
    def classify(self, images: Any, top_k: int = 5, batch_size: int = 8) -> list[Prediction]: ...
    def classify(self, images: Any, top_k: int = 5, batch_size: int = 8) -> list[Prediction] | list[list[Prediction]]:
        """The `top_k` labels of a picture, best first; of a list of pictures, a list of those."""
        if top_k < 1:
            raise SettingError(f"top_k is {top_k}; it must be at least 1.")
        results = []
        for pixels in self._batches(images, batch_size):
            scores = self._scores(pixels)
            best = scores.topk(min(top_k, scores.shape[1]))
            for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                results.append([Prediction(self.labels[i], s) for i, s in zip(indices, values, strict=True)])
        return results if isinstance(images, list) else results[0]

    def logits(self, images: Any, batch_size: int = 8) -> Tensor:
        """Raw scores of a list of pictures, (B, classes) float32; of one picture, (classes,)."""
        with torch.inference_mode():
            logits = torch.cat([self.model(pixels).float().cpu() for pixels in self._batches(images, batch_size)])
        return logits if isinstance(images, list) else logits[0]

    def embed(self, images: Any, pool: Pool = "cls", layer: int = -1, batch_size: int = 8) -> np.ndarray:
        """Embeddings of a list of pictures as float32: (B, dim), or (B, 1 + patches, dim) with `pool="none"`; without
        B for one.

        `pool` takes the class token, the mean of the patches, or everything. Layer 0 is the patch embeddings and
        `depth` the last layer, as transformers counts `hidden_states`; -1 is the last layer behind the final norm,
        which the head sees.
        """
        depth = self.model.config.depth
        if pool not in ("cls", "mean", "none"):
            raise SettingError(f"pool is {pool!r}; it is one of cls, mean, none.")
        if not -depth - 1 <= layer <= depth:
            raise SettingError(f"layer is {layer}; this model has layers 0 to {depth}, or -{depth + 1} to -1.")
        vectors = []
        for pixels in self._batches(images, batch_size):
            with torch.inference_mode():
                tokens = self._tokens(pixels, layer).float()
            if pool == "cls":
                tokens = tokens[:, 0]
            elif pool == "mean":
                tokens = tokens[:, 1:].mean(dim=1)
            vectors.append(tokens.cpu().numpy())
        stacked = np.concatenate(vectors)
        return stacked if isinstance(images, list) else stacked[0]

    def attention(
        self,
        image: Any,
        method: Method = "rollout",
        layer: int | None = None,
        head: int | None = None,
        fusion: Literal["mean", "max", "min"] = "mean",
        discard_ratio: float = 0.0,
    ) -> Attention:
        """What the class token attends to in one picture.

        `rollout` (Abnar & Zuidema 2020) follows attention through all layers, up to `layer` where one is given;
        `attention` is that of one layer (default: the last) alone. Heads are fused by `fusion`, or one `head` is
        taken. `discard_ratio` drops that share of the weakest links first.
        """
        depth, heads = self.model.config.depth, self.model.config.heads
        if method not in ("rollout", "attention"):
            raise SettingError(f"method is {method!r}; it is one of rollout, attention.")
        if layer is not None and not -depth <= layer < depth:
            raise SettingError(f"layer is {layer}; this model has layers 0 to {depth - 1}, or -{depth} to -1.")
        if head is not None and not -heads <= head < heads:
            raise SettingError(f"head is {head}; this model has heads 0 to {heads - 1}, or -{heads} to -1.")
        last = (depth - 1 if layer is None else layer) % depth
        tap = AttentionMaps(layers=range(last + 1) if method == "rollout" else [last])
        picture = open_image(image)
        with torch.inference_mode():
            for i, _ in enumerate(self.model.hidden_states(self._pixels([picture]), tap)):
                if i == last + 1:
                    break
        maps = tap.stacked()[:, 0]  # (layers, heads, tokens, tokens)
        chosen = maps if head is None else maps[:, [head]]
        if method == "rollout":
            joint = rollout(chosen[:, None], fusion, discard_ratio)[0]  # (tokens, tokens)
        else:
            joint = fuse(chosen, fusion, discard_ratio)[0]
        view = self.transform.view(picture)
        patch = self.model.config.patch_size
        heat = attention_to_grid(joint[0], (view.height // patch[0], view.width // patch[1]))
        return Attention(maps, heat, picture if self.transform.crop is None else view)

    def _tokens(self, pixels: Tensor, layer: int) -> Tensor:
        if layer == -1:
            return self.model.features(pixels)
        wanted = layer % (self.model.config.depth + 1)
        return next(x for i, x in enumerate(self.model.hidden_states(pixels)) if i == wanted)

    def _scores(self, pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            scores = _SCORES[self.problem_type](self.model(pixels).float()).cpu()
        if not scores.isfinite().all():
            raise CheckpointError(f"{self.name} gives scores that are no numbers; try --precision float32.")
        return scores

    def _pixels(self, pictures: list[Image.Image]) -> Tensor:
        return self.transform(pictures).to(self.device, self.dtype)

    def _batches(self, images: Any, batch_size: int) -> Iterator[Tensor]:
        listed = images if isinstance(images, list) else [images]
        if not listed:
            raise SettingError("There are no pictures in the list; give at least one.")
        if batch_size < 1:
            raise SettingError(f"batch_size is {batch_size}; it must be at least 1.")
        for start in range(0, len(listed), batch_size):
            yield self._pixels([open_image(image) for image in listed[start : start + batch_size]])


def _transform(folder: Path, config: Mapping[str, Any], model: ViT) -> ImageTransform:
    if (folder / "preprocessor_config.json").is_file():
        with readable(folder / "preprocessor_config.json"):
            return ImageTransform.from_config(read_json(folder / "preprocessor_config.json"))
    if "pretrained_cfg" in config:
        with readable(folder / "config.json"):
            return ImageTransform.from_config(config)
    height, width = model.config.image_size
    warnings.warn(
        f"{folder} has no preprocessor_config.json; pictures are resized to {width}x{height} and scaled to [-1, 1], "
        "as for Google's ViT.",
        stacklevel=2,
    )
    return ImageTransform(size=model.config.image_size)


def _labels(config: Mapping[str, Any], classes: int) -> list[str]:
    listed = config.get("label_names")
    named = config.get("id2label") or (dict(enumerate(listed)) if isinstance(listed, list) else listed or {})
    if not isinstance(named, Mapping) or not all(isinstance(i, int) or _is_number(i) for i in named):
        raise CheckpointError(f"id2label is {str(named)[:100]!r}; it must name the labels by their numbers.")
    labels = {int(i): str(label) for i, label in named.items()}
    if beyond := [f"{i} ({label})" for i, label in labels.items() if not 0 <= i < classes]:
        shown = ", ".join(beyond[:3]) + (", ..." if len(beyond) > 3 else "")
        warnings.warn(f"The head has {classes} classes, and there are labels beyond them: {shown}.", stacklevel=2)
    return [labels.get(i, f"LABEL_{i}") for i in range(classes)]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20
