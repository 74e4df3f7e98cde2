"""The eye: a Vision Transformer with the labels and the preprocessing that travel with its weights."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from eyesel.attention import Attention
from eyesel.errors import CheckpointError, SettingError
from eyesel.explain import Each, MethodName, Question, explain
from eyesel.fields import readable
from eyesel.images import ImageTransform, Names, Source, open_image
from eyesel.images.assumed import assumed
from eyesel.models.vit import Pool, ViT, at_size
from eyesel.stream import Answer, stream
from eyesel.taps.rollout import Fusion
from eyesel.weights.files import read_json
from eyesel.weights.hub import resolve
from eyesel.weights.labels import labels_of
from eyesel.weights.placement import choose_device
from eyesel.weights.save import stored_dtype
from eyesel.weights.views import HeldTensor
from eyesel.weights.vit import StoredViT, open_vit_files
from eyesel.weights.vit_save import check_format, write_vit

Function = Literal["softmax", "sigmoid", "none"]
T = TypeVar("T")

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
        if problem_type not in PROBLEM_TYPES:
            raise SettingError(f"problem_type {problem_type!r} is unknown; it is one of {', '.join(PROBLEM_TYPES)}.")
        self.model, self.transform, self.labels = model, transform, tuple(labels)
        self.problem_type, self.name = problem_type, name
        self.device = model.patch_embeddings.weight.device
        self.dtype = model.patch_embeddings.weight.dtype

    @classmethod
    def load(
        cls,
        name: str | Path = "tiny",
        *,
        image_size: int | tuple[int, int] | None = None,
        device: str = "auto",
        precision: str = "auto",
        offline: bool = False,
    ) -> "ImageClassifier":
        """Open `tiny` (bundled), a hub name (`owner/name[@revision]`), a folder or a file of weights.

        `image_size`, a number or (height, width) in pixels, is another size for the pictures: preprocessing and
        position embeddings follow. What a checkpoint does not say is assumed by convention, and said in a warning.
        Raises `CheckpointError` for what is not a ViT, `SettingError` for an unknown device, precision or size.
        """
        path = resolve(name, kind="classifier", offline=offline)
        stored = open_vit_files(path)
        transform = _transform(path if path.is_dir() else path.parent, stored)
        labels = labels_of(stored.config, stored.model.config.classes)
        shape = stored.model.config if image_size is None else stored.model.config.at_size(image_size)
        transform = transform if image_size is None else transform.with_size(*shape.image_size)
        return cls(
            at_size(stored.model.load(choose_device(device), precision), shape.image_size),
            transform,
            labels,
            stored.config.get("problem_type") or "single_label_classification",
            str(name),
        )

    def save(
        self, folder: str | Path, format: str = "transformers", *, dtype: str | None = None, force: bool = False
    ) -> None:
        """Write a folder that transformers or timm opens: weights, labels and preprocessing.

        Weights are stored as they are held (`load(..., precision="file")` keeps every bit of a checkpoint), or as
        `dtype`. A folder that is there already is replaced only by `force`. Raises `SettingError` where the format has
        no network or preprocessing of this kind, `OutputError` where it cannot be written.
        """
        check_format(format)
        write_vit(
            Path(folder),
            format,
            self.model.config,
            {name: HeldTensor(tensor.detach().cpu()) for name, tensor in self.model.state_dict().items()},
            self.labels,
            self.problem_type,
            self.transform.to_timm() if format == "timm" else self.transform.to_config(),
            self.transform.output_size,
            stored_dtype(dtype),
            force,
        )
        if self.transform.crop is not None and self.transform.crop_to_even != (format == "timm"):
            warnings.warn(f"{format} rounds half pixels its own way: its crops may lie a pixel aside.", stacklevel=2)

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

    @overload
    def classify(
        self, images: list[Any], top_k: int = 5, batch_size: int = 8, function_to_apply: Function | None = None
    ) -> list[list[Prediction]]: ...
    @overload
    def classify(
        self, images: Any, top_k: int = 5, batch_size: int = 8, function_to_apply: Function | None = None
    ) -> list[Prediction]: ...
    def classify(
        self, images: Any, top_k: int = 5, batch_size: int = 8, function_to_apply: Function | None = None
    ) -> list[Prediction] | list[list[Prediction]]:
        """The `top_k` labels of a picture, best first; of a list of pictures, a list of those.

        `function_to_apply` makes scores of logits: `softmax`, which share 1 among them, `sigmoid`, each from 0 to 1 by
        itself, or `none`. The default follows from the checkpoint's problem_type, as in transformers: softmax for one
        label a picture, sigmoid for several or for a single class, none for a regression.
        """
        predict = self._predictor(top_k, function_to_apply)
        results = [found for pixels in self._batches(images, batch_size) for found in predict(pixels)]
        return results if isinstance(images, list) else results[0]

    def classify_many(
        self,
        images: Names | Iterable[Source],
        top_k: int = 5,
        batch_size: int = 8,
        function_to_apply: Function | None = None,
        *,
        workers: int | None = None,
        draft: bool = False,
        thumbnail: int | None = None,
    ) -> Iterator[Answer[list[Prediction]]]:
        """`classify`, one picture after the other, of as many as there are: in constant memory, decoded ahead.

        `images` are files, folders, globs, tar archives (`-` is one over standard input) and lists of files (`@FILE`),
        or sources of your own. A picture that cannot be read is an answer with an `error`, and does not stop the rest.
        `workers` threads decode (default: one a core, at most 8). `draft` decodes large JPEGs at 1/2, 1/4 or 1/8 of
        their size, no less than twice what the network reads; with `thumbnail`, answers hold a small picture, whose
        longer side has that many pixels. What is wrong with the settings is raised at once.
        """
        predict = self._predictor(top_k, function_to_apply)
        return self._stream(images, predict, batch_size, workers, draft, thumbnail)

    def logits(self, images: Any, batch_size: int = 8) -> Tensor:
        """Raw scores of a list of pictures, (B, classes) float32; of one picture, (classes,)."""
        with torch.inference_mode():
            logits = torch.cat([self.model(pixels).float().cpu() for pixels in self._batches(images, batch_size)])
        return logits if isinstance(images, list) else logits[0]

    def embed(
        self,
        images: Any,
        pool: Pool = "cls",
        layer: int | Sequence[int] = -1,
        batch_size: int = 8,
        *,
        final_norm: bool | None = None,
        normalize: bool = False,
    ) -> np.ndarray:
        """Embeddings of a list of pictures as float32, (B, ...); of one picture, without B.

        `pool` takes the class token, (B, dim); the `mean` of the patches, (B, dim); `none`, every token (B, T, dim),
        where class, distillation and register tokens come before the patches; or the `grid` of the patches
        (B, rows, columns, dim). Layer 0 is the patch embeddings and `depth` the last layer, as transformers counts
        `hidden_states`; several layers, such as [3, 6, -1], stand behind one another: (B, layers, ...).

        Layers come as they are computed, but for -1, which is the last one behind the final norm, as the head sees it;
        `final_norm` True or False puts all of them behind the norm, or none. `normalize` gives vectors of length 1.
        """
        embedder = self.embedder(pool, layer, final_norm, normalize)
        stacked = np.concatenate([embedder(pixels) for pixels in self._batches(images, batch_size)])
        return stacked if isinstance(images, list) else stacked[0]

    def embed_many(
        self,
        images: Names | Iterable[Source],
        pool: Pool = "cls",
        layer: int | Sequence[int] = -1,
        batch_size: int = 8,
        *,
        final_norm: bool | None = None,
        normalize: bool = False,
        workers: int | None = None,
        draft: bool = False,
    ) -> Iterator[Answer[np.ndarray]]:
        """`embed`, one picture after the other, of as many as there are; the rest is as in `classify_many`."""
        embedder = self.embedder(pool, layer, final_norm, normalize)
        return self._stream(images, embedder, batch_size, workers, draft)

    @overload
    def attention(
        self,
        images: list[Any],
        method: MethodName = ...,
        layer: int | Each | None = ...,
        head: int | Each | None = ...,
        fusion: Fusion = ...,
        discard_ratio: float | None = ...,
        target: int | str | None = ...,
        mask_outliers: bool = ...,
        outlier_ratio: float = ...,
        batch_size: int = ...,
    ) -> list[Attention]: ...
    @overload
    def attention(
        self,
        images: Any,
        method: MethodName = ...,
        layer: int | Each | None = ...,
        head: int | Each | None = ...,
        fusion: Fusion = ...,
        discard_ratio: float | None = ...,
        target: int | str | None = ...,
        mask_outliers: bool = ...,
        outlier_ratio: float = ...,
        batch_size: int = ...,
    ) -> Attention: ...
    def attention(
        self,
        images: Any,
        method: MethodName = "rollout",
        layer: int | Each | None = None,
        head: int | Each | None = None,
        fusion: Fusion = "mean",
        discard_ratio: float | None = None,
        target: int | str | None = None,
        mask_outliers: bool = False,
        outlier_ratio: float = 2.0,
        batch_size: int = 8,
    ) -> Attention | list[Attention]:
        """What the model looks at in a picture; of a list of pictures, a list of those.

        - `rollout` (Abnar & Zuidema 2020) follows what the head sees through the layers, from `layer` to the patches;
        - `attention` is what the token that the head sees attends to in one layer;
        - `gradient-rollout` (Chefer et al. 2021) is a rollout of that attention alone which speaks for a class;
        - `gradcam` (Selvaraju et al. 2017) weighs the normed tokens before a layer's attention by the class's gradient;
        - `norms` is how long the vectors are that a layer puts out, with the outliers marked;
        - `pca` shows the three principal components of these vectors behind the final norm as colours, the same for all
          pictures of a call (Oquab et al. 2023).

        `layer` counts from 0 and is the last by default; "each" shows them all. So does `head`; by default the heads
        are fused by `fusion`, after which `discard_ratio` drops that share of the weakest links (default 0.9 for the
        two rollouts, as in github.com/jacobgil/vit-explain, and 0 for `attention`). `target` is the class to look for,
        a label or its number; by default what the model sees. With `mask_outliers`, patches whose vectors are over
        `outlier_ratio` times as long as the median of their picture are filled from their neighbours.

        Results hold all that was read, 22 MB a picture for a rollout of ViT-B/16 at 224 pixels: ask about many pictures
        in portions. Raises `SettingError` for settings that the model or the method has not.
        """
        question = Question(
            method,
            layer,
            head,
            fusion,
            discard_ratio,
            None if target is None else self._class(target),
            mask_outliers,
            outlier_ratio,
        )
        listed = [open_image(image) for image in (images if isinstance(images, list) else [images])]
        looks = explain(self.model, self._batches(listed, batch_size), question)
        results = []
        for picture, look in zip(listed, looks, strict=True):
            results.append(
                Attention(
                    look.maps,
                    look.heat[(slice(None) if layer == "each" else 0, ...)],
                    picture if self.transform.crop is None else self.transform.view(picture),
                    method,
                    question.layers(self.model.config) if layer == "each" else (),
                    question.heads(self.model.config) if head == "each" else (),
                    None if look.target is None else self.labels[look.target],
                    None if look.outliers is None else look.outliers[slice(None) if layer == "each" else 0],
                )
            )
        return results if isinstance(images, list) else results[0]

    def _class(self, wanted: int | str) -> int:
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

    def _predictor(self, top_k: int, function_to_apply: Function | None) -> Callable[[Tensor], list[list[Prediction]]]:
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
        """The `top_k` labels of each row of logits (B, classes), best first; `CheckpointError` for NaN."""
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

    def _stream(
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

    def _batches(self, images: Any, batch_size: int) -> Iterator[Tensor]:
        listed = images if isinstance(images, list) else [images]
        if not listed:
            raise SettingError("There are no pictures in the list; give at least one.")
        if batch_size < 1:
            raise SettingError(f"batch_size is {batch_size}; it must be at least 1.")
        for start in range(0, len(listed), batch_size):
            yield self._pixels([open_image(image) for image in listed[start : start + batch_size]])


def _transform(folder: Path, stored: StoredViT) -> ImageTransform:
    if (folder / "preprocessor_config.json").is_file():
        with readable(folder / "preprocessor_config.json"):
            return ImageTransform.from_config(read_json(folder / "preprocessor_config.json"))
    if "pretrained_cfg" in stored.config or "input_size" in stored.config:
        with readable(folder / "config.json"):
            return ImageTransform.from_config(stored.config)
    transform, words = assumed(stored.origin, stored.model.config.image_size)
    warnings.warn(f"{folder} has no preprocessor_config.json; pictures are {words}.", stacklevel=2)
    return transform
