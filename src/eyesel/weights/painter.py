"""A Stable Diffusion checkpoint in its files, whatever their format: what loading and converting both start from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eyesel.errors import CheckpointError
from eyesel.models.autoencoder import Autoencoder
from eyesel.models.clip_text import ClipText
from eyesel.models.unet import UNet
from eyesel.text.tokenizer import ClipTokenizer
from eyesel.weights import diffusers_format, ldm_format
from eyesel.weights.families import Family, Prediction
from eyesel.weights.files import find_weights, open_tensors, read_json
from eyesel.weights.load import StoredModel, renamed, shapes_of
from eyesel.weights.recognise import family_of_config, family_of_tensors
from eyesel.weights.views import StoredTensor

WANTED = "a painter, which is Stable Diffusion 1.x, 2.x or XL as a diffusers folder or a single file"


@dataclass(frozen=True)
class Options:
    """What the caller says about a checkpoint. `variant` picks files of a folder (`*.fp16.safetensors`); `vae` is an
    autoencoder's file or folder to take instead; `ema` takes the averaged weights of a single file; the last two
    overrule what the checkpoint says it was trained for.
    """

    variant: str | None = None
    vae: Path | None = None
    ema: bool = False
    prediction_type: str | None = None
    zero_terminal_snr: bool | None = None


AS_IT_IS = Options()


@dataclass(frozen=True)
class StoredPainter:
    family: Family
    unet: StoredModel[UNet]
    autoencoder: StoredModel[Autoencoder]
    text_encoders: list[StoredModel[ClipText]]
    tokenizers: list[ClipTokenizer]
    scheduler: dict[str, Any]
    index: dict[str, Any]
    prediction: Prediction
    has_ema: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def models(self) -> list[StoredModel[Any]]:
        return [self.unet, self.autoencoder, *self.text_encoders]


def refuse(path: Path, family: str | None, wanted: str) -> CheckpointError:
    what = f"This is {family}" if family else "This is not a checkpoint of a known family"
    return CheckpointError(f"{what}: {path} cannot be opened as {wanted}.")


def open_autoencoder(path: Path, scaling_factor: float, variant: str | None = None) -> StoredModel[Autoencoder]:
    """An autoencoder by itself: a diffusers folder, or a file in the spelling of ldm (with or without the prefix that
    it has in a whole checkpoint) or diffusers. A file does not say its scaling factor, so the checkpoint's is given.
    """
    if path.is_dir():
        if (path / "vae" / "config.json").is_file():
            path = path / "vae"
        described = read_json(path / "config.json")
        if described.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
            raise refuse(path, family_of_config(described), "an autoencoder of Stable Diffusion")
        config = diffusers_format.autoencoder_config(described)
        tensors = open_tensors(find_weights(path, variant))
        return StoredModel(Autoencoder, config, renamed(tensors, diffusers_format.AUTOENCODER, str(path)), str(path))
    tensors = open_tensors([path])
    return autoencoder_of_tensors(autoencoder_part(tensors) or tensors, scaling_factor, path)


def autoencoder_part(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    parts = (ldm_format.under(tensors, prefix) for prefix in ldm_format.AUTOENCODER_PREFIXES)
    return next((part for part in parts if part), {})


def autoencoder_of_tensors(
    tensors: Mapping[str, StoredTensor], scaling_factor: float, path: Path
) -> StoredModel[Autoencoder]:
    if "decoder.up_blocks.0.resnets.0.conv1.weight" in tensors:
        table = diffusers_format.AUTOENCODER
    elif levels := ldm_format.autoencoder_levels(shapes_of(tensors)):
        table = ldm_format.autoencoder_table(levels)
    else:
        raise refuse(path, family_of_tensors(tensors), "an autoencoder of Stable Diffusion")
    ours = renamed(tensors, table, str(path))
    return StoredModel(Autoencoder, ldm_format.autoencoder_config(shapes_of(ours), scaling_factor), ours, str(path))
