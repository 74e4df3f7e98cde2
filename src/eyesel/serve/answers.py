"""What the worker does for a batch, and before the first one."""

from dataclasses import replace
from typing import Any

from PIL import Image
from torch import Tensor

from eyesel.attention import Attention
from eyesel.classifier import ImageClassifier
from eyesel.images import ImageTransform
from eyesel.serve.intake import decoded
from eyesel.serve.options import ServerOptions
from eyesel.serve.pool import ModelPool

SIDE, SHEET_SIDE = 2048, 512  # pixels of the longer side of what an overlay shows, and of one of a sheet of many


def pixels_of(transform: ImageTransform, image: Image.Image | bytes, options: ServerOptions) -> Tensor:
    """(1, 3, H, W), in a thread that decodes. Raises `ImageError` and `ApiError`."""
    return transform([image if isinstance(image, Image.Image) else decoded(image, options)])


def answers(models: ModelPool, key: Any, pixels: Tensor, finishes: list[Any]) -> list[Any]:
    """The answer of each of pixels (B, 3, H, W): of key ("logits", model) predictions or logits, as `finishes` has it;
    of key ("vectors", model, pool, layers, normalize) embeddings.
    """
    what, id, *settings = key
    eye = models.get(id, "classifier")
    if what == "vectors":
        pool, layers, normalize = settings
        return list(eye.embedder(pool, layers, None, normalize)(pixels))
    logits = eye.network(pixels).cpu()
    found: list[Any] = [None] * len(finishes)
    for finish in set(finishes):
        rows = [i for i, each in enumerate(finishes) if each == finish]
        made = list(logits[rows]) if finish[0] == "infer" else eye.predictions(logits[rows], *finish[1:])
        for row, answer in zip(rows, made, strict=True):
            found[row] = answer
    return found


def lighter(look: Attention) -> Attention:
    """What was looked at, over a picture of which each overlay is made in a moment; blocks a little."""
    most = SHEET_SIDE if look.layers or look.heads else SIDE
    longest = max(look.image.size)
    if longest <= most:
        return look
    size = tuple(max(round(side * most / longest), 1) for side in look.image.size)
    return replace(look, image=look.image.resize((size[0], size[1]), Image.Resampling.BICUBIC, reducing_gap=3.0))


def warm_up(models: ModelPool, options: ServerOptions) -> None:
    """Load as many models as the limit of memory lets stay, and use each once, which is slow the first time."""
    room = options.limits.memory
    for card in models.cards():
        if card.name not in options.models or (room is not None and card.size > room):
            continue
        room = None if room is None else room - card.size
        model = models.get(card.id, card.kind)
        if isinstance(model, ImageClassifier):
            height, width = model.model.config.image_size
            model.classify(Image.new("RGB", (width, height)))
        elif not (model.inpaints or model.is_refiner):
            next(model.steps("warm up", steps=2, seed=0))
