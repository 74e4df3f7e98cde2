"""Pictures as the autoencoder has them, and back."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eyesel.errors import ImageError
from eyesel.images.decode import open_image


def to_pil(x: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) floats in [-1, 1] -> PIL images, clamped, rounded half to even (diffusers' VaeImageProcessor)."""
    x = (x.detach() * 0.5 + 0.5).clamp(0, 1)
    pixels = (x.cpu().permute(0, 2, 3, 1).float().numpy() * 255).round().astype(np.uint8)  # (B, H, W, 3)
    return [Image.fromarray(picture) for picture in pixels]


def from_pil(images: Sequence[Image.Image]) -> Tensor:
    """PIL images of one size -> (B, 3, H, W) float32 in [-1, 1] (diffusers' VaeImageProcessor, without its resize)."""
    arrays = [np.asarray(image if image.mode == "RGB" else open_image(image)) for image in images]
    if len({array.shape for array in arrays}) != 1:
        listed = ", ".join(sorted({f"{image.width}x{image.height}" for image in images})) or "none"
        raise ImageError(f"a batch needs pictures of one size, and these are {listed}: resize them first.")
    pixels = np.stack(arrays).astype(np.float32) / 255.0
    return 2.0 * torch.from_numpy(pixels.transpose(0, 3, 1, 2)) - 1.0
