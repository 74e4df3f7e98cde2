"""What a ViT looked at: six ways from its weights and a batch of pixels to heat maps.

The model that classifies is the model that is looked into, through taps: nothing is copied, hooked or left behind, and
only the layers that a method reads pay for it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from eyesel.errors import CheckpointError, SettingError
from eyesel.models.vit import ViT, ViTConfig
from eyesel.taps.gradients import Traced, TracedMaps, TracedTokens, class_activation, positive_evidence
from eyesel.taps.maps import AttentionMaps
from eyesel.taps.outliers import find_outliers, without_outliers
from eyesel.taps.pca import pca_colours
from eyesel.taps.rollout import Fusion, attention_to_grid, fuse, rollouts

MethodName = Literal["rollout", "attention", "gradient-rollout", "gradcam", "norms", "pca"]
Each = Literal["each"]


@dataclass(frozen=True)
class Method:
    """Which settings mean something to a method."""

    heads: bool = False  # it reads attention: head, fusion, discard_ratio
    through: bool = False  # of all layers up to the one that is shown
    classes: bool = False  # it looks for a class: target
    discard_ratio: float = 0.0


METHODS = {
    "rollout": Method(heads=True, through=True, discard_ratio=0.9),
    "attention": Method(heads=True),
    "gradient-rollout": Method(heads=True, through=True, classes=True, discard_ratio=0.9),
    "gradcam": Method(classes=True),
    "norms": Method(),
    "pca": Method(),
}


@dataclass(frozen=True)
class Question:
    """What is to be shown; the settings are explained at `ImageClassifier.attention`."""

    method: MethodName = "rollout"
    layer: int | Each | None = None
    head: int | Each | None = None
    fusion: Fusion = "mean"
    discard_ratio: float | None = None
    target: int | None = None
    mask_outliers: bool = False
    outlier_ratio: float = 2.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SettingError(f"method is {self.method!r}; it is one of {', '.join(METHODS)}.")
        given = {"head": self.head, "fusion": None if self.fusion == "mean" else self.fusion}
        for name, value in (given | {"discard_ratio": self.discard_ratio}).items():
            if value is not None and not self.kind.heads:
                fitting = ", ".join(other for other, kind in METHODS.items() if kind.heads)
                raise SettingError(f"{name} is {value}, and {self.method} has no use for it; take one of {fitting}.")
        if self.target is not None and not self.kind.classes:
            fitting = ", ".join(other for other, kind in METHODS.items() if kind.classes)
            raise SettingError(f"{self.method} is the same for every class; for a class take one of {fitting}.")
        if self.mask_outliers and self.method == "norms":
            raise SettingError("norms shows the outliers; they can be masked in the other methods.")

    @property
    def kind(self) -> Method:
        return METHODS[self.method]

    def layers(self, config: ViTConfig) -> tuple[int, ...]:
        """The layers to show."""
        last = config.depth - 1 if self.layer is None else self.layer
        return tuple(range(config.depth)) if last == "each" else (_index("layer", last, config.depth),)

    def heads(self, config: ViTConfig) -> tuple[int, ...]:
        """The heads to show, each by itself; none where they are fused."""
        if self.head is None:
            return ()
        return tuple(range(config.heads)) if self.head == "each" else (_index("head", self.head, config.heads),)

    def discard(self) -> float:
        return self.kind.discard_ratio if self.discard_ratio is None else self.discard_ratio


@dataclass(frozen=True, eq=False)
class Look:
    """The answer for one picture; every tensor is float32 on the CPU.

    `maps` is what was read of each layer: (layers, heads, N, N) attention, times its gradient where that is positive
    for `gradient-rollout`; (layers, N) class activation with its sign, or norms; (layers, N, dim) features for `pca`.
    N counts the class token and its like, which come first.
    """

    maps: Tensor
    heat: Tensor  # (layers, [heads,] rows, columns [, 3])
    outliers: Tensor | None  # (layers, rows, columns), boolean
    target: int | None  # the class


def explain(model: ViT, batches: Iterable[Tensor], question: Question) -> list[Look]:
    """One answer for each picture of the batches of pixels (B, 3, H, W).

    For methods that look for a class, it is `question.target`, or for each picture the one that the model sees in it.
    """
    looks = [look for pixels in batches for look in _looks(model, pixels, question)]
    if question.method == "pca":
        looks = _coloured(looks)
    return [_masked(look, question) for look in looks] if question.mask_outliers else looks


def _looks(model: ViT, pixels: Tensor, question: Question) -> Iterator[Look]:
    grid = model.patch_grid(pixels)
    shown = question.layers(model.config)
    chosen = question.heads(model.config)
    maps, classes = _read(model, pixels, question, shown)
    if not maps.isfinite().all():
        raise CheckpointError("This model gives maps that are no numbers; try --precision float32.")
    heat = _heat(maps, question, shown, chosen, model.config, grid)
    outliers = None
    if question.method == "norms" or question.mask_outliers:
        norms = heat if question.method == "norms" else _patches(_outputs(model, pixels, shown).norm(dim=-1), grid)
        outliers = find_outliers(norms, question.outlier_ratio)
    for i in range(len(pixels)):
        of_picture = None if outliers is None else outliers[:, i]
        yield Look(maps[:, i], heat[:, i], of_picture, None if classes is None else int(classes[i]))


def _read(model: ViT, pixels: Tensor, question: Question, shown: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """`Look.maps` of a batch, (layers, B, ...), and the classes (B,) that were looked for."""
    layers = range(shown[-1] + 1) if question.kind.through else shown
    match question.method:
        case "rollout" | "attention":
            return _attention(model, pixels, layers), None
        case "gradient-rollout":
            maps, gradients, classes = _traced(model, pixels, TracedMaps(layers), question.target)
            return positive_evidence(maps, gradients), classes
        case "gradcam":
            tokens, gradients, classes = _activations(model, pixels, layers, question.target)
            return class_activation(tokens, gradients, model.config.prefix_tokens), classes
        case "norms":
            return _outputs(model, pixels, layers).norm(dim=-1), None
        case "pca":
            return _outputs(model, pixels, layers, normed=True), None


def _heat(
    maps: Tensor,
    question: Question,
    shown: tuple[int, ...],
    heads: tuple[int, ...],
    config: ViTConfig,
    grid: tuple[int, int],
) -> Tensor:
    """What was read as `Look.heat` of a batch: (layers, B, ...)."""
    if question.kind.heads:
        if question.head == "each":
            maps = maps.unsqueeze(-3)  # (layers, B, heads, 1, N, N): nothing to fuse
        elif heads:
            maps = maps[..., heads, :, :]
        joint = (rollouts if question.kind.through else fuse)(maps, question.fusion, question.discard())
        return _patches(_of_the_head(joint[-len(shown) :], config), grid)
    if question.method == "pca":
        return _patches(maps.mT, grid).movedim(-3, -1)  # (layers, B, rows, columns, dim)
    heat = _patches(maps, grid)
    return heat.clamp(min=0) if question.method == "gradcam" else heat


def _attention(model: ViT, pixels: Tensor, layers: Sequence[int]) -> Tensor:
    """(layers, B, heads, N, N); the model runs no further than the last of the layers."""
    tap = AttentionMaps(layers)
    with torch.inference_mode():
        for i, _ in enumerate(model.hidden_states(pixels, tap)):
            if i > max(layers):
                break
    return tap.stacked()


def _of_the_head(joint: Tensor, config: ViTConfig) -> Tensor:
    """The row of what the head sees, (..., N, N) -> (..., N): its tokens', in the mean if there are several."""
    rows = []
    if config.pooling != "mean":
        rows.append(joint[..., 0, :])
    if config.distillation_head:
        rows.append(joint[..., 1, :])
    if config.pooling != "cls":
        rows.append(joint[..., config.prefix_tokens :, :].mean(-2))
    return torch.stack(rows).mean(0)


def _activations(
    model: ViT, pixels: Tensor, layers: Sequence[int], target: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What Grad-CAM weighs in layers, with gradients and classes as `_traced` gives them.

    Where the head sees no patches, what the last layer puts out for them has no gradient: they are taken behind the
    norm in front of a layer's attention. Where it sees their mean, most of what they say passes by the attention, and
    they are taken as the layer puts them out.
    """
    if model.config.pooling == "cls":
        return _traced(model, pixels, TracedTokens(layers), target)
    return _traced(model, pixels, Traced(()), target, layers)


def _traced(
    model: ViT, pixels: Tensor, tap: Traced, target: int | None, outputs: Sequence[int] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """What the tap kept and what layers put out, the gradient of the class's logit, and the classes (B,)."""
    with torch.inference_mode(False), torch.enable_grad():
        for i, x in enumerate(model.hidden_states(pixels, tap)):
            last = tap.keep(i - 1, x) if i - 1 in outputs else x
        logits = model.logits(model.norm(last)).float()  # (B, classes)
        classes = logits.argmax(-1) if target is None else torch.full_like(logits[:, 0], target, dtype=torch.long)
        kept, gradients = tap.with_gradients(logits.gather(1, classes[:, None]).sum())
    return kept, gradients, classes.cpu()


def _outputs(model: ViT, pixels: Tensor, layers: Sequence[int], normed: bool = False) -> Tensor:
    """What layers put out, if need be through the final norm as in DINOv2: (layers, B, N, dim)."""
    kept = []
    with torch.inference_mode():
        for i, x in enumerate(model.hidden_states(pixels)):
            if i - 1 in layers:
                kept.append((model.norm(x) if normed else x).float().cpu())
            if i > max(layers):
                break
    return torch.stack(kept)


def _patches(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """(..., N) -> (..., rows, columns)."""
    return attention_to_grid(values, grid, values.shape[-1] - grid[0] * grid[1])


def _coloured(looks: list[Look]) -> list[Look]:
    """Features become colours, which all pictures share; layers have their own."""
    heats = []
    for layer in range(len(looks[0].heat)):
        features = [look.heat[layer].flatten(0, 1) for look in looks]
        left_out = [look.outliers[layer].flatten() for look in looks if look.outliers is not None]
        heats.append(pca_colours(features, left_out or None))
    colours = [torch.stack(layers) for layers in zip(*heats, strict=True)]  # of each picture, (layers, patches, 3)
    return [
        replace(look, heat=colour.unflatten(1, look.heat.shape[1:3]))
        for look, colour in zip(looks, colours, strict=True)
    ]


def _masked(look: Look, question: Question) -> Look:
    heat, outliers = look.heat, look.outliers
    if outliers is None:
        return look
    if question.method == "pca":
        return replace(look, heat=without_outliers(heat.movedim(-1, 1), outliers[:, None]).movedim(1, -1))
    return replace(look, heat=without_outliers(heat, outliers[:, None] if question.head == "each" else outliers))


def _index(what: str, value: int | Each, count: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -count <= value < count:
        raise SettingError(
            f"{what} is {value}; this model has {what}s 0 to {count - 1}, or -{count} to -1, and 'each' shows them all."
        )
    return value % count
