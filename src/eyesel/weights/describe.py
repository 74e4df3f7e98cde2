"""What a checkpoint is, read from its configuration and headers alone."""

import math
from pathlib import Path
from typing import Any

from eyesel.errors import CheckpointError
from eyesel.weights.files import StoredTensor, find_weights, open_tensors, read_json
from eyesel.weights.recognise import family_of_config, family_of_tensors


def describe(path: Path) -> dict[str, Any]:
    """Facts about a folder or file, in the order in which a person wants them; parts of a painter under `parts`."""
    if path.is_file():
        tensors = open_tensors([path])
        return {"path": str(path), "is": family_of_tensors(tensors) or "unknown", **_weights([path], tensors)}
    if (path / "model_index.json").is_file():
        index = read_json(path / "model_index.json")
        return {
            "path": str(path),
            "is": family_of_config(index) or "unknown",
            "parts": {part: _part(path / part) for part, kind in index.items() if _is_part(path, part, kind)},
        }
    if (path / "config.json").is_file():
        return {"path": str(path), **_part(path)}
    raise CheckpointError(f"{path} has neither a model_index.json nor a config.json; it is not a model folder.")


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


def _part(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in ("config.json", "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            config = read_json(folder / name)
            kind = config.get("_class_name") or config.get("tokenizer_class") or config.get("image_processor_type")
            facts["is"] = kind or family_of_config(config) or "unknown"
            facts |= {label: config[key] for key, label in _TELLING.items() if config.get(key) is not None}
            if labels := config.get("id2label"):
                facts["labels"] = list(labels.values())
            break
    try:
        files = find_weights(folder)
    except CheckpointError:
        return facts  # schedulers and tokenizers have none
    return {**facts, **_weights(files, open_tensors(files))}


def _weights(files: list[Path], tensors: dict[str, StoredTensor]) -> dict[str, Any]:
    dtypes = sorted({str(stored.dtype).removeprefix("torch.") for stored in tensors.values()})
    return {
        "parameters": sum(math.prod(stored.shape) for stored in tensors.values()),
        "tensors": len(tensors),
        "stored as": ", ".join(dtypes),
        "bytes": sum(file.stat().st_size for file in files),
    }
