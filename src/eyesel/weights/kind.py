"""What a single file is, by the names in its header alone."""

from pathlib import Path
from typing import Any, Literal

from eyesel.weights.embedding_picture import PICTURES, read_picture
from eyesel.weights.files import open_tensors, read_pickle
from eyesel.weights.recognise import family_of_tensors

FileKind = Literal["lora", "embedding", "ip-adapter", "vae", "checkpoint"]

_KINDS: dict[str, FileKind] = {
    "a LoRA": "lora",
    "a textual-inversion embedding": "embedding",
    "an IP-Adapter": "ip-adapter",
    "an autoencoder alone": "vae",
    "a single-file Stable Diffusion checkpoint": "checkpoint",
    "a single-file Stable Diffusion 2 checkpoint": "checkpoint",
    "a single-file Stable Diffusion XL checkpoint": "checkpoint",
    "a single-file Stable Diffusion XL refiner": "checkpoint",
}


def kind_of_file(path: Path) -> FileKind | None:
    """None if it is none of them. Raises `CheckpointError` or `ImageError` where it cannot be read."""
    if path.suffix.lower() in PICTURES:
        return "embedding" if read_picture(path) is not None else None
    data: Any = open_tensors([path]) if path.suffix == ".safetensors" else read_pickle(path)
    names = [str(name) for name in data.get("state_dict", data)] if isinstance(data, dict) else []
    family = family_of_tensors(names)
    if family is None and len(names) == 1 and "." not in names[0]:  # a word, as diffusers saves it; no module's name
        return "embedding"
    return _KINDS.get(family or "")
