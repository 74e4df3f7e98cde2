"""What a checkpoint is, read from its configuration and headers alone.

One thing cannot be read: what a Stable Diffusion 2 file without metadata predicts. There the network is asked.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eyesel.errors import CheckpointError
from eyesel.fields import readable
from eyesel.weights import clip_format, diffusers_format
from eyesel.weights.describe_adapters import describe_adapter
from eyesel.weights.files import find_weights, open_tensors, read_json
from eyesel.weights.ldm_format import UNET_PREFIX
from eyesel.weights.load import StoredModel
from eyesel.weights.painter import AS_IT_IS, StoredPainter
from eyesel.weights.recognise import family_of_config, family_of_tensors, is_unsupported
from eyesel.weights.single_file import open_file
from eyesel.weights.views import StoredTensor


def describe(path: Path) -> dict[str, Any]:
    """Facts about a folder or file, in the order in which a person wants them; parts of a painter under `parts`."""
    with readable(path):
        return _facts(path)


def _facts(path: Path) -> dict[str, Any]:
    if adapter := describe_adapter(path):
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        return {"path": str(path), **adapter, "bytes": sum(file.stat().st_size for file in files)}
    if path.is_file():
        return _file(path)
    if (path / "model_index.json").is_file():
        index = read_json(path / "model_index.json")
        return {
            "path": str(path),
            "is": family_of_config(index) or "unknown",
            "parts": {part: _part(path / part) for part, kind in index.items() if _is_part(path, part, kind)},
        }
    if (path / "config.json").is_file():
        return {"path": str(path), **_part(path)}
    files = find_weights(path)
    tensors = open_tensors(files)
    size = sum(file.stat().st_size for file in files)
    return {
        "path": str(path),
        "is": family_of_tensors(tensors) or "unknown",
        **_weights(tensors.values()),
        "bytes": size,
    }


def _file(path: Path) -> dict[str, Any]:
    tensors = open_tensors([path])
    facts = {"path": str(path), "is": family_of_tensors(tensors) or "unknown"}
    weights = {**_weights(tensors.values()), "bytes": path.stat().st_size}
    if is_unsupported(tensors) or not any(name.startswith(UNET_PREFIX) for name in tensors):
        return {**facts, **weights}
    return {**facts, **_painter(open_file(path, AS_IT_IS)), **weights}


def _painter(painter: StoredPainter) -> dict[str, Any]:
    prediction = painter.prediction
    facts: dict[str, Any] = {"prediction": prediction.type, "known from": prediction.rule}
    if prediction.zero_terminal_snr:
        facts["zero terminal SNR"] = True
    pixels = painter.unet.config.sample_size * painter.autoencoder.config.factor
    encoders = zip(painter.family.text_encoders, painter.text_encoders, strict=True)
    return {
        **facts,
        "averaged weights": "also" if painter.has_ema else "no",
        "parts": {
            "unet": _stored(painter.unet, diffusers_format.unet_config_json(painter.unet.config)),
            "vae": _stored(
                painter.autoencoder, diffusers_format.autoencoder_config_json(painter.autoencoder.config, pixels)
            ),
            **{e.folder: _stored(model, clip_format.transformers_config(model.config)) for e, model in encoders},
        },
    }


def _stored(model: StoredModel[Any], config: Mapping[str, Any]) -> dict[str, Any]:
    return {**_told(config), **_weights(model.tensors.values())}


def _is_part(path: Path, part: str, kind: Any) -> bool:
    return isinstance(kind, list) and len(kind) == 2 and kind[0] is not None and (path / part).is_dir()


# The entries of a config that tell a person what the part is.
_TELLING = {
    "image_size": "image size",
    "patch_size": "patch size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "problem_type": "problem type",
    "in_channels": "input channels",
    "block_out_channels": "channels",
    "cross_attention_dim": "text width",
    "sample_size": "sample size",
    "latent_channels": "latent channels",
    "scaling_factor": "scaling factor",
    "prediction_type": "prediction",
    "beta_schedule": "betas",
    "timestep_spacing": "spacing",
    "num_train_timesteps": "training steps",
}


def _told(config: Mapping[str, Any]) -> dict[str, Any]:
    kind = config.get("_class_name") or config.get("tokenizer_class") or config.get("image_processor_type")
    facts = {"is": kind or family_of_config(config) or "unknown"}
    return facts | {label: config[key] for key, label in _TELLING.items() if config.get(key) is not None}


def _part(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in ("config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            config = read_json(folder / name)
            facts = _told(config)
            if labels := config.get("id2label"):
                facts["labels"] = list(labels.values())
            break
    try:
        files = find_weights(folder)
    except CheckpointError:
        return facts  # schedulers and tokenizers have none
    weights = _weights(open_tensors(files).values())
    return {**facts, **weights, "bytes": sum(file.stat().st_size for file in files)}


def _weights(tensors: Iterable[StoredTensor]) -> dict[str, Any]:
    tensors = list(tensors)
    dtypes = sorted({str(stored.dtype).removeprefix("torch.") for stored in tensors})
    return {
        "parameters": sum(math.prod(stored.shape) for stored in tensors),
        "tensors": len(tensors),
        "stored as": ", ".join(dtypes),
    }
