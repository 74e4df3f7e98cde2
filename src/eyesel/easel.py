"""The models of a painter, and what each of them does by itself: texts, pictures and latents in and out."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from eyesel.canvas import MAX_SIDE, SIZE_STEP
from eyesel.conditioning import PromptEncoder
from eyesel.errors import CheckpointError, SettingError
from eyesel.fields import plain
from eyesel.images import from_pil, to_pil
from eyesel.models.autoencoder import Autoencoder
from eyesel.models.clip_text import ClipText
from eyesel.models.ip_adapter import ImagePrompt
from eyesel.models.unet import SizeConditioning, UNet
from eyesel.nn.attention import Tap
from eyesel.nn.image_attention import Prompted
from eyesel.nn.seamless import seamless
from eyesel.nn.stage import Stage
from eyesel.text.tokenizer import ClipTokenizer
from eyesel.weights.diffusers_folder import Recommended
from eyesel.weights.library import Library

AS_USUAL = Recommended()


class Easel:
    """Weights and configuration; nothing of a call."""

    def __init__(
        self,
        unet: UNet,
        autoencoder: Autoencoder,
        text_encoders: list[ClipText],
        tokenizers: list[ClipTokenizer],
        scheduler: dict[str, Any],
        zero_negative: bool = False,
        name: str = "",
        recommended: Recommended = AS_USUAL,
        library: Library | None = None,
        device: torch.device | None = None,
    ) -> None:
        """`device` is where the models work, if that is not where they are: they then go there only to work."""
        self.unet, self.autoencoder = unet, autoencoder
        self.text_encoders, self.tokenizers = text_encoders, tokenizers
        self.scheduler, self.zero_negative, self.name = scheduler, zero_negative, name
        self.recommended, self.library = recommended, library
        self.image_prompts: tuple[ImagePrompt, ...] = ()
        self.remarks: dict[str, Any] = {}  # what pictures say of the painter besides its name
        self.device = device or unet.conv_in.weight.device
        self._check_parts()
        self.prompt_encoder = PromptEncoder(text_encoders, tokenizers, xl=self.is_xl, device=self.device)

    def _check_parts(self) -> None:
        """Parts of different checkpoints can be put into one folder; they need not fit each other."""
        unet, latents = self.unet.config, self.autoencoder.config.latent_channels
        text = sum(encoder.config.dim for encoder in self.text_encoders)
        inpainting = 2 * latents + 1  # latents, mask, latents of the masked picture
        if unet.out_channels != latents or unet.in_channels not in (latents, inpainting):
            raise CheckpointError(
                f"The UNet maps {unet.in_channels} channels to {unet.out_channels} and the autoencoder has {latents}: "
                "this checkpoint is not for text to image, or its parts do not belong together."
            )
        if text != unet.context_dim:
            raise CheckpointError(
                f"The text encoders give {text} numbers a token and the UNet reads {unet.context_dim}: "
                "these parts do not belong together."
            )
        for encoder, tokenizer in zip(self.text_encoders, self.tokenizers, strict=True):
            if len(tokenizer) > encoder.config.vocab_size or tokenizer.max_length > encoder.config.max_length:
                raise CheckpointError(
                    f"The tokenizer has {len(tokenizer)} words and prompts of {tokenizer.max_length} tokens, the text "
                    f"encoder {encoder.config.vocab_size} and {encoder.config.max_length}: they do not belong together."
                )

    @property
    def is_xl(self) -> bool:
        return self.unet.config.added_dim is not None

    @property
    def is_refiner(self) -> bool:
        """Whether this finishes the pictures of Stable Diffusion XL: one of its six size numbers is a score."""
        unet, pooled = self.unet.config, self.text_encoders[-1].config.projection_dim or 0
        return bool(unet.added_dim and unet.size_dim and unet.added_dim != pooled + 6 * unet.size_dim)

    @property
    def inpaints(self) -> bool:
        """Whether the network was trained to repaint pictures, and is shown them."""
        return self.unet.config.in_channels > self.unet.config.out_channels

    def picture_size(self, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """(width, height) of a picture: what is asked for if it can be painted, else what the model was trained at."""
        if size is None:
            sample = self.unet.config.sample_size * self.autoencoder.config.factor
            return sample, sample
        size = plain(size)
        if not isinstance(size, tuple | list) or len(size) != 2 or not all(isinstance(side, int) for side in size):
            raise SettingError(f"size is {size!r}; it must be (width, height) in pixels, such as (512, 768).")
        for name, side in zip(("width", "height"), size, strict=True):
            if side < SIZE_STEP or side > MAX_SIDE or side % SIZE_STEP:
                below = max(SIZE_STEP, min(side, MAX_SIDE) // SIZE_STEP * SIZE_STEP)
                raise SettingError(
                    f"The {name} is {side} pixels; it must be a multiple of {SIZE_STEP} up to {MAX_SIDE}, "
                    f"such as {below}."
                )
        return size[0], size[1]

    def seamless(self) -> Self:
        """Another one, of the same weights, whose pictures fit themselves at their edges."""
        other = copy.copy(self)
        other.unet, other.autoencoder = seamless(self.unet), seamless(self.autoencoder)
        return other

    def latent_shape(self, count: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """(B, channels, h, w) of so many pictures of `size` (width, height)."""
        config = self.autoencoder.config
        return count, config.latent_channels, size[1] // config.factor, size[0] // config.factor

    def network(self, stage: Stage[UNet], tap: Tap | None = None) -> Callable[..., Tensor]:
        """A UNet as `Pass` takes it: (x, t, context, pooled and sizes for SDXL, image_0, ...), float32 in and out."""

        def network(
            x: Tensor,
            t: Tensor,
            context: Tensor,
            pooled: Tensor | None = None,
            sizes: Tensor | None = None,
            **images: Tensor,
        ) -> Tensor:
            added = None if pooled is None or sizes is None else SizeConditioning(pooled, sizes)

            def use(unet: UNet, dtype: torch.dtype) -> Tensor:
                text = context.to(dtype)
                told = Prompted(text, tuple(images.values())) if images else text
                return unet(x.to(dtype), t, told, added, tap).float()

            with torch.inference_mode():
                return stage.run(use)

        return network

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Scaled latents (B, channels, h, w) of RGB pictures of one size, in float32: the mean of what they may be."""
        return self.encode_pixels(from_pil(images))

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """The same of pixels (B, 3, H, W) in [-1, 1]."""
        with torch.inference_mode():
            stage = Stage(self.autoencoder, self.device)
            return stage.run(lambda model, dtype: model.encode(pixels.to(self.device, dtype)).float())

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of scaled latents (B, channels, h, w); `SettingError` where they came out as no numbers."""
        with torch.inference_mode():
            stage = Stage(self.autoencoder, self.device)
            pixels = stage.run(lambda model, dtype: model.decode(latents.to(self.device, dtype)).float())
        if not pixels.isfinite().all():
            raise SettingError(
                "The picture came out as no numbers (NaN), in float32, too: take a guidance nearer to 7.5, or LoRAs of "
                "less weight."
            )
        return to_pil(pixels)
