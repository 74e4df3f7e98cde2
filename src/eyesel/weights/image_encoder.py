"""CLIP's image encoder in its file or folder, with the preprocessing that belongs to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eyesel.errors import CheckpointError
from eyesel.fields import readable
from eyesel.images import ImageTransform, open_image
from eyesel.models.clip_vision import ClipVision, ImageFeatures
from eyesel.weights.clip_format import CLIP_VISION, vision_config
from eyesel.weights.files import find_weights, open_tensors, read_json
from eyesel.weights.load import StoredModel, renamed, shapes_of
from eyesel.weights.painter import refuse
from eyesel.weights.recognise import family_of_tensors

_WANTED = "an image encoder (CLIP's, with its projection)"
_SIGNATURE = "pre_layrnorm.weight"


@dataclass(frozen=True, eq=False)
class StoredImageEncoder:
    """An image encoder that is not loaded yet, and how a picture is made ready for it."""

    model: StoredModel[ClipVision]
    transform: ImageTransform

    @property
    def where(self) -> str:
        return self.model.where

    def features(
        self, images: Sequence[Any], device: torch.device, dtype: torch.dtype
    ) -> tuple[ImageFeatures, ImageFeatures]:
        """What it sees in pictures, each what `open_image` takes, and in one whose normalised pixels are zeros."""
        pixels = self.transform([open_image(image) for image in images]).to(device, dtype)
        encoder = self.model.load(device, str(dtype).removeprefix("torch."))
        with torch.inference_mode():
            return encoder(pixels), encoder(torch.zeros_like(pixels[:1]))


def open_image_encoder(path: str | Path) -> StoredImageEncoder:
    """A folder as transformers writes it (`image_encoder/`), or a safetensors file, its config.json beside it or not.

    Raises `CheckpointError` for everything else.
    """
    where = Path(path).expanduser()
    if not where.exists():
        raise CheckpointError(
            f"There is no image encoder {where}: name its folder with image_encoder (--image-encoder)."
        )
    with readable(where):
        return _open(where)


def _open(where: Path) -> StoredImageEncoder:
    folder = where if where.is_dir() else where.parent
    tensors = open_tensors(find_weights(where) if where.is_dir() else [where])
    if not any(name.removeprefix(CLIP_VISION.prefix) == _SIGNATURE for name in tensors):
        raise refuse(where, family_of_tensors(tensors), _WANTED)
    if not any(name.startswith("visual_projection.") for name in tensors):
        raise CheckpointError(f"{where} has no visual_projection: take an image encoder with its projection.")
    # a whole CLIP model has a text encoder besides
    seeing = {name: stored for name, stored in tensors.items() if not name.startswith(("text_", "logit_scale"))}
    ours = renamed(seeing, CLIP_VISION, str(where))
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    model = StoredModel(ClipVision, vision_config(config, shapes_of(ours)), ours, str(where))
    return StoredImageEncoder(model, _transform(folder, model.config.image_size))


def _transform(folder: Path, side: int) -> ImageTransform:
    """That of preprocessor_config.json, or else CLIP's own at the size of the encoder."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return ImageTransform.from_config(
            {"image_processor_type": "CLIPImageProcessor", "size": side, "crop_size": side}
        )
    transform = ImageTransform.from_config(read_json(file))
    if transform.output_size != (side, side):
        raise CheckpointError(
            f"{file} makes pictures of {transform.output_size} pixels and the image encoder reads {side}x{side}: "
            "they do not belong together."
        )
    return transform
