"""The hash by which AUTOMATIC1111 and Civitai know a checkpoint file."""

import hashlib
from functools import lru_cache
from pathlib import Path

from eyesel.errors import CheckpointError


def short_hash(path: Path) -> str:
    """The first ten digits of a file's SHA-256 ("AutoV2"), which takes reading all of it, a few seconds, once."""
    if not path.is_file():
        raise CheckpointError(f"{path} is a folder, and only single files have a hash: leave out --model-hash.")
    state = path.stat()
    return _digest(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, size: int, mtime: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:10]
