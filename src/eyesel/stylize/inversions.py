"""Inverted pictures, kept by what they were inverted from: in memory, and in a folder if there is one."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eyesel.errors import ImageError, OutputError
from eyesel.images import check_writable, written_whole
from eyesel.taps.style import Features

SAMPLE = 64  # values of each tensor that are looked at


class Inversions:
    """Hand one to several calls and each picture is inverted once; with a folder, once for all of them ever.

    A picture of 512x512 takes 3.3 MB at 50 steps. Features are kept in memory alone.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder).expanduser()
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"the folder {folder} cannot be made ({error.strerror}): choose another.") from None
            check_writable(self.folder / "latents.safetensors")
        self._latents: dict[str, Tensor] = {}
        self._features: dict[str, list[Features]] = {}

    def latents(self, key: str) -> Tensor | None:
        """(levels, C, h, w) from the noisiest down, on the CPU."""
        if key not in self._latents and self.folder is not None:
            file = self.folder / f"{key}.safetensors"
            try:
                if file.is_file():
                    self._latents[key] = load_file(file)[key]
            except (SafetensorError, OSError, KeyError) as error:
                raise ImageError(f"the kept inversion {file} is damaged, or another's ({error}): delete it.") from None
        return self._latents.get(key)

    def keep(self, key: str, latents: Tensor) -> None:
        self._latents[key] = latents
        if self.folder is not None:
            with written_whole(self.folder / f"{key}.safetensors") as trial:
                save_file({key: latents.contiguous()}, trial)

    def features(self, key: str) -> list[Features] | None:
        """One for each step."""
        return self._features.get(key)

    def keep_features(self, key: str, features: list[Features]) -> None:
        self._features[key] = features


def key_of(picture: Image.Image, *how: object) -> str:
    """Of a picture's pixels, and of all else that its inversion depends on."""
    digest = hashlib.sha256(repr((picture.size, *how)).encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()[:32]


def fingerprint(models: Iterable[nn.Module]) -> str:
    """Of the weights, by a sample of each tensor: fine-tuning changes all of them, and a copy of the file none."""
    digest = hashlib.sha256()
    for model in models:
        for name, tensor in model.state_dict().items():
            values = tensor.flatten()
            sample = values[:: max(len(values) // SAMPLE, 1)][:SAMPLE]
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(sample.cpu().to(torch.float32).numpy().tobytes())
    return digest.hexdigest()
