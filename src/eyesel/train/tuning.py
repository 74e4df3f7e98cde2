"""A base for new classes: its head, and which of its weights are trained."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eyesel.classifier import ImageClassifier
from eyesel.errors import SettingError
from eyesel.models.vit import ViT
from eyesel.train.adapters import Lora, add_lora
from eyesel.train.task import Task

_STD = 0.02  # of a new head's weights, as transformers' initializer_range


class ClassifierTask(Task):
    """`labels` are (B,) numbers of classes, or (B, classes) shares of them. Weights of classes and label smoothing
    count in training alone: validation losses are comparable.
    """

    def __init__(self, model: ViT, weights: Tensor | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        self.model, self.smoothing = model, smoothing
        self.register_buffer("class_weights", weights, persistent=False)

    def blocks(self) -> Sequence[nn.Module]:
        return list(self.model.layers)

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(pixel_values)
        if not self.training:
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}
        loss = F.cross_entropy(logits, labels, self.class_weights, label_smoothing=self.smoothing)  # type: ignore[arg-type]
        return {"loss": loss, "logits": logits}


def for_classes(base: ImageClassifier, classes: Sequence[str], seed: int) -> tuple[ViT, list[str], str | None]:
    """A copy of the base that tells `classes`, and their order in it.

    The base's head stays where it tells exactly these; else a new one takes its place, and a note about that is
    the last.
    """
    config = base.model.config
    order = list(classes)
    kept = config.classes > 0 and set(base.labels) == set(classes) and not config.distillation_head
    changes: dict[str, Any] = {"pooler": config.pooling == "pooler"}
    if kept:
        order = list(base.labels)
    else:
        pooling = "cls+mean" if config.layer_scale and not config.classes else config.pooling
        changes |= {"classes": len(order), "distillation_head": False, "pooling": pooling}
    model = ViT(replace(config, **changes))
    state = {name: tensor.detach().float().clone() for name, tensor in base.model.state_dict().items()}
    own = {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith(("classifier.", "distillation_classifier.", "pooler."))
        or (name.startswith("pooler.") and changes["pooler"])
        or (name.startswith("classifier.") and kept)
    }
    if not kept:
        weight = model.get_parameter("classifier.weight")
        fresh = torch.empty_like(weight)
        nn.init.trunc_normal_(fresh, std=_STD, generator=torch.Generator().manual_seed(seed))
        own |= {"classifier.weight": fresh, "classifier.bias": torch.zeros(len(order))}
    model.load_state_dict(own)
    return model, order, None if kept else _about_head(base, order)


def _about_head(base: ImageClassifier, classes: Sequence[str]) -> str:
    new = f"a new head for {len(classes)} classes ({_few(classes)}) is learned"
    if not base.model.config.classes:
        return f"{base.name} has no head; {new}"
    return (
        f"the head of {base.name} tells {len(base.labels)} other classes ({_few(base.labels)}) and is left out; {new}"
    )


def _few(labels: Sequence[str]) -> str:
    shown = [" ".join(label.split()) for label in labels[:3]]
    return ", ".join([*shown, "..."] if len(labels) > 3 else shown)


def set_trainable(model: ViT, tune: str, lora: Lora) -> None:
    """`full`, `head` (a linear probe), `last-N` (the last N layers, final norm and head) or `lora` (and the head)."""
    if tune == "full":
        return
    model.requires_grad_(False)
    if tune == "lora":
        add_lora(model, lora)
    elif tune != "head":
        count = int(tune.removeprefix("last-"))
        if not 1 <= count <= model.config.depth:
            raise SettingError(f"tune is {tune!r}; this model has {model.config.depth} layers.")
        for layer in model.layers[-count:]:
            layer.requires_grad_(True)
        model.norm.requires_grad_(True)
        model.pooled_norm.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if name.startswith("classifier."):
            parameter.requires_grad_(True)
