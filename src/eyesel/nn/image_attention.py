"""Decoupled cross-attention (Ye et al. 2023, "IP-Adapter", equation 5): what looks at the words of a prompt looks at
pictures, too, through keys and values of their own.

    out = attention(q, k(text), v(text)) + scale * attention(q, k(image), v(image))

The tokens of pictures travel with the call, beside those of the prompt; a layer holds only the matrices.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyesel.nn.attention import Attention, Site, Tap, attention
from eyesel.nn.replica import replica

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class Prompted:
    """What cross-attention reads where adapters add pictures to the prompt."""

    text: Tensor  # (B, M, context_dim)
    images: tuple[Tensor, ...]  # (B, T, context_dim), of each adapter in the order in which they were added


Context = Tensor | Prompted


class ImageKeys(nn.Module):
    """How one adapter's picture tokens become keys and values, (dim, context_dim) each, and how much they count."""

    def __init__(self, to_k: Tensor, to_v: Tensor, scale: float) -> None:
        super().__init__()
        self.to_k, self.to_v = (nn.Parameter(matrix, requires_grad=False) for matrix in (to_k, to_v))
        self.scale = scale


class ImageAttention(Attention):
    """A cross-attention layer of the same weights, or one that has adapters already, with one adapter more.

    A tap meets each adapter's attention at a site of its own, whose name ends in ".images.0", ".images.1", ...
    """

    def __init__(self, base: Attention, keys: ImageKeys) -> None:
        with torch.device("meta"):
            super().__init__(1, 1, 1)
        self.heads, self.name, self.layer, self.cross = base.heads, base.name, base.layer, base.cross
        self.to_q, self.to_k, self.to_v, self.to_out = base.to_q, base.to_k, base.to_v, base.to_out
        self.images = nn.ModuleList([*getattr(base, "images", ()), keys])

    def attend(self, q: Tensor, context: Context, mask: Tensor | None, tap: Tap | None, site: Site | None) -> Tensor:
        if not isinstance(context, Prompted):
            return super().attend(q, context, mask, tap, site)
        out = super().attend(q, context.text, mask, tap, site)
        adapters = zip(cast("Iterable[ImageKeys]", self.images), context.images, strict=True)
        for i, (keys, tokens) in enumerate(adapters):
            if keys.scale:
                own = None if site is None else Site(f"{site.name}.images.{i}", site.layer, site.cross, site.grid)
                k, v = (self._heads(F.linear(tokens, matrix)) for matrix in (keys.to_k, keys.to_v))
                out = out + keys.scale * attention(q, k, v, None, tap, own)
        return out


def with_image_keys(model: Model, keys: Mapping[str, ImageKeys]) -> Model:
    """A replica that shares every weight, and whose cross-attention layers, by path, look at pictures as well."""
    other = replica(model)
    for path, own in keys.items():
        owner, _, leaf = path.rpartition(".")
        base = cast("Attention", other.get_submodule(path))
        setattr(other.get_submodule(owner), leaf, ImageAttention(base, own).train(base.training))
    return other
