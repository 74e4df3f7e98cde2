"""A painter as it is trained: a batch of latents and texts in, the loss out. Nothing is drawn here."""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyesel.models.autoencoder import Autoencoder
from eyesel.models.clip_text import ClipText
from eyesel.models.unet import SizeConditioning, SpatialTransformer, UNet
from eyesel.nn.layers import EncoderLayer, ResnetBlock
from eyesel.train.diffusion.objective import Objective
from eyesel.train.task import Task


class PainterTask(Task):
    """`learned` are the vectors of a new word, (V, dim) for each text encoder, which tokens -1, -2, ... stand for.

    The autoencoder is only needed by UNets that repaint, which are shown what is not under the mask.
    """

    def __init__(
        self,
        unet: UNet,
        text_encoders: Iterable[ClipText],
        objective: Objective,
        autoencoder: Autoencoder | None = None,
        learned: Iterable[Tensor] = (),
        xl: bool = False,
    ) -> None:
        super().__init__()
        self.unet, self.text_encoders, self.objective = unet, nn.ModuleList(text_encoders), objective
        self.autoencoder, self.xl = autoencoder, xl
        self.learned = nn.ParameterList(nn.Parameter(vectors.clone()) for vectors in learned)

    def blocks(self) -> Iterable[nn.Module]:
        kinds = (ResnetBlock, SpatialTransformer)
        yield from (module for module in self.unet.modules() if isinstance(module, kinds))
        if self.trains_text:
            yield from (module for module in self.text_encoders.modules() if isinstance(module, EncoderLayer))

    @property
    def encoders(self) -> list[ClipText]:
        return cast("list[ClipText]", list(self.text_encoders))

    @property
    def trains_text(self) -> bool:
        """Whether what a text is to the UNet changes in the course of training."""
        return any(p.requires_grad for p in (*self.text_encoders.parameters(), *self.learned))

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        weight: Tensor,
        context: Tensor | None = None,
        pooled: Tensor | None = None,
        ids_0: Tensor | None = None,
        ids_1: Tensor | None = None,
        silent: Tensor | None = None,
        sizes: Tensor | None = None,
        pixels: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Latents and noise (B, C, h, w), timesteps and weights (B,).

        A text is given encoded, as `context` (B, M, dim) and for SDXL `pooled` (B, P), or as ids (B, chunks, N) for
        each text encoder; rows that are `silent` (B,) are told zeros. SDXL gets `sizes` (B, 6). UNets that repaint get
        `pixels` (B, 3, H, W) and a `mask` (B, 1, H, W).
        """
        if context is None:
            ids = [each for each in (ids_0, ids_1) if each is not None]
            context, pooled = self.encode_texts(ids)
        if silent is not None:
            told = (~silent).to(context)
            context = context * told.view(-1, 1, 1)
            pooled = None if pooled is None else pooled * told.view(-1, 1)
        x = self.objective.noisy(latents, noise, timesteps)
        if pixels is not None and mask is not None:
            x = torch.cat([x, *self._seen(pixels, mask)], dim=1)
        added = SizeConditioning(pooled, sizes) if self.xl and pooled is not None and sizes is not None else None
        prediction = self.unet(x, timesteps, context, added)
        return {"loss": self.objective(prediction, latents, noise, timesteps, weight)}

    def encode_texts(self, ids: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(B, chunks, N) of each encoder -> context (B, chunks · N, dim) and pooled (B, P), as prompts are encoded."""
        contexts, pooled = [], torch.empty(0)
        with nullcontext() if self.trains_text else torch.no_grad():
            for i, (encoder, rows) in enumerate(zip(self.encoders, ids, strict=True)):
                learned = self.learned[i] if len(self.learned) else None
                features = encoder(rows.flatten(0, 1), 2 if self.xl else 1, learned)
                hidden = features.hidden if self.xl else encoder.final_layer_norm(features.hidden)
                contexts.append(hidden.unflatten(0, rows.shape[:2]).flatten(1, 2))
                pooled = features.pooled.unflatten(0, rows.shape[:2])[:, 0]
        return torch.cat(contexts, dim=-1), pooled

    @torch.no_grad()
    def _seen(self, pixels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What a repainting UNet is shown, as in painting: the mask and the latents of what is not under it."""
        assert self.autoencoder is not None
        with torch.autocast(pixels.device.type, enabled=False):
            masked = self.autoencoder.encode(pixels * (1 - mask))
        return F.max_pool2d(mask, self.autoencoder.config.factor), masked
