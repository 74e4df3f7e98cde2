"""Random masks for inpainting, as diffusers' research script `train_dreambooth_inpaint.py` draws them."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor


def random_mask(size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """(1, H, W), 1 in a rectangle or an ellipse of any size in a picture of `size` (width, height), else 0."""
    mask = Image.new("L", size, 0)
    extent = [int(rng.integers(0, side, endpoint=True)) for side in size]
    centre = [
        int(rng.integers(own // 2, side - own // 2, endpoint=True)) for own, side in zip(extent, size, strict=True)
    ]
    low = [c - own // 2 for c, own in zip(centre, extent, strict=True)]
    high = [c + own // 2 for c, own in zip(centre, extent, strict=True)]
    shape = ImageDraw.Draw(mask).rectangle if rng.integers(2) == 0 else ImageDraw.Draw(mask).ellipse
    shape((*low, *high), fill=255)
    return torch.from_numpy((np.asarray(mask) >= 128).astype(np.float32))[None]
