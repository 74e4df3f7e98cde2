"""How pictures are prepared for a checkpoint that does not say it."""

from eyesel.images.configs import IMAGENET_MEAN, IMAGENET_STD
from eyesel.images.transform import ImageTransform

_DINOV2_SIDE = 518  # of the positions in its files; its pictures are smaller


def assumed(origin: str, image_size: tuple[int, int]) -> tuple[ImageTransform, str]:
    """The custom of those who write such checkpoints (transformers, timm, google or meta), and the same in words;
    `image_size` is the model's (height, width).
    """
    height, width = image_size
    if origin in ("transformers", "google") or height != width:
        words = f"resized to {width}x{height} and scaled to [-1, 1], as for Google's ViT"
        return ImageTransform(size=image_size), words
    side = 224 if origin == "meta" and height == _DINOV2_SIDE else height
    edge = side * 256 // 224
    custom = "DINO and DeiT" if origin == "meta" else "most models of timm"
    words = (
        f"resized to a shorter edge of {edge} pixels, cut to {side}x{side} and normalised by the mean and deviation of "
        f"ImageNet, as for {custom}"
    )
    transform = ImageTransform(
        size=edge, crop=(side, side), resample=3, mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_to_even=True
    )
    return transform, words
