"""What is computed once for many epochs, by a key of all that it depends on: in memory, or as files that stay."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from eyesel.errors import OutputError
from eyesel.images import written_whole

Tensors = dict[str, Tensor]


class Cache:
    """With a `folder` nothing is held in memory, and several runs share what they have in common."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder).expanduser()
        self._held: dict[str, Tensors] = {}
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"the folder {folder} cannot be made ({error.strerror}): choose another.") from None

    def make(self, key: str, compute: Callable[[], Tensors]) -> bool:
        """See that `key` is there; True if it had to be computed. A damaged file is written anew."""
        if self.folder is None:
            if key in self._held:
                return False
            self._held[key] = {name: tensor.cpu().clone() for name, tensor in compute().items()}
            return True
        file = self.folder / f"{key}.safetensors"
        try:
            load_file(file)
            return False
        except (SafetensorError, OSError):
            with written_whole(file) as trial:
                save_file({name: tensor.cpu().contiguous() for name, tensor in compute().items()}, trial)
            return True

    def __getitem__(self, key: str) -> Tensors:
        if self.folder is None:
            return self._held[key]
        return load_file(self.folder / f"{key}.safetensors")


def key_of(*what: object) -> str:
    """Bytes by their content, all else by its text."""
    digest = hashlib.sha256()
    for each in what:
        digest.update(each if isinstance(each, bytes) else repr(each).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:40]
