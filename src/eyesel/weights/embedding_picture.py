"""Textual inversions that AUTOMATIC1111 hides in a picture: as text in a PNG file, or in the pixels themselves.

The text is base64 of JSON. In the pixels (`image_embedding.py` there), the picture stands between two blocks, each set
off by a black column: the lower halves of the bytes on its left, the upper halves on its right, in the lower four bits
of every colour, exclusive-or a fixed sequence. The bytes are JSON, compressed.
"""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eyesel.errors import CheckpointError
from eyesel.images import open_image, read_metadata

PICTURES = (".png", ".webp")
TEXT_KEY = "sd-ti-embedding"
_MOST_JSON = 64 << 20
_MOST_PIXELS = 1 << 23  # of both blocks; 75 vectors take a fifth of them
_BLACK = 2  # columns between the blocks


def read_picture(path: Path) -> dict[str, Any] | None:
    """What is hidden in a picture, tensors as tensors; None for a picture like any other."""
    text = read_metadata(path).get(TEXT_KEY)
    try:
        data = base64.b64decode(text, validate=True) if text is not None else _in_pixels(path)
        found = None if data is None else json.loads(data, object_hook=_tensor)
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} hides an embedding that cannot be read: download it again.") from error
    return found if isinstance(found, dict) else None


def _tensor(record: dict[str, Any]) -> Any:
    return torch.tensor(record["TORCHTENSOR"], dtype=torch.float32) if "TORCHTENSOR" in record else record


def _in_pixels(path: Path) -> bytes | None:
    pixels = np.asarray(open_image(path))  # (H, W, 3)
    lit = np.all(pixels > 0, axis=2)
    rows, columns = np.flatnonzero(np.any(lit, axis=1)), np.flatnonzero(np.any(lit, axis=0))
    if not len(rows):
        return None
    bits = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & 15
    black = np.flatnonzero(~np.any(bits, axis=(0, 2)))
    if len(black) < _BLACK:
        return None
    low, high = bits[:, : black[0]], bits[:, black[-1] + 1 :]
    if low.shape != high.shape or not 0 < low.size <= _MOST_PIXELS:
        return None
    mask = _sequence(low.size).reshape(low.shape)
    data = ((high ^ mask) << 4 | (low ^ mask)).tobytes()
    try:
        return zlib.decompressobj().decompress(data, _MOST_JSON)
    except zlib.error:  # a picture with black columns of its own
        return None


def _sequence(length: int) -> np.ndarray:
    """A linear congruential generator's numbers, modulo 255, of which four bits count."""
    powers = np.cumprod(np.full(length - 1, 1664525, np.uint32), dtype=np.uint32)
    sums = np.cumsum(np.concatenate([np.ones(1, np.uint32), powers]), dtype=np.uint32)
    return ((sums * np.uint32(1013904223)) % 255 & 15).astype(np.uint8)
