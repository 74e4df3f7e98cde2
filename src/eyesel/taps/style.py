"""Style injection in self-attention (Chung et al. 2024, StyleID, arXiv:2312.09008, section 4).

In the chosen layers the picture that is made asks with its own queries and the content's, and is answered by the
style's keys and values:

    q = gamma q_content + (1 - gamma) q,   softmax(T q k_styleᵀ / sqrt(d)) v_style

Several styles, and the content itself where the style is not to rule alone, stand side by side: their keys are one long
list, and log w on the logits of each makes its share w of what equally good keys would get. A weight of 1 is the
formula above to the last bit, a weight of 0 is as if the picture were not there, and two copies of a style are one.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from eyesel.nn.attention import Site, attention

Features = Mapping[str, Mapping[str, Tensor]]  # site -> "q", "k", "v" of one picture, (h, N, d) each


class StyleInjection:
    """Hand it to the UNet as `tap`; made for one call, it holds nothing of the pictures.

    Without `kept` the rows of the batch are [content, style, ..., style, result, ...], and the references are left
    alone. With `kept`, the features of the references by an earlier pass, in the same order, all rows are results.
    """

    def __init__(
        self,
        sites: Collection[str],
        gamma: float,
        temperature: float,
        weights: Sequence[float],
        kept: Sequence[Features] | None = None,
    ) -> None:
        """`weights` are those of the content and of each style, in the attention of the result; they add up to 1."""
        self.sites, self.gamma, self.temperature = frozenset(sites), gamma, temperature
        self.weights, self.kept = tuple(weights), kept

    def wants(self, site: Site) -> bool:
        return site.name in self.sites

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention (B, h, N, d) of all rows; q, k and v are (B, h, N, d)."""
        if self.kept is not None:
            features = [picture[site.name] for picture in self.kept]
            return self._inject(q, lambda part, row: features[row][part].to(q))
        count, parts = len(self.weights), {"q": q, "k": k, "v": v}
        references = attention(q[:count], k[:count], v[:count])
        return torch.cat([references, self._inject(q[count:], lambda part, row: parts[part][row])])

    def _inject(self, q: Tensor, of: Callable[[str, int], Tensor]) -> Tensor:
        """`of(part, row)` is the "q", "k" or "v" (h, N, d) of a reference."""
        q = self.temperature * torch.lerp(q, of("q", 0).expand_as(q), self.gamma)
        rows = [row for row, weight in enumerate(self.weights) if weight]
        k, v = (
            torch.cat([of(part, row) for row in rows], dim=1).expand(len(q), -1, -1, -1)  # (B, h, S·N, d)
            for part in ("k", "v")
        )
        if len(rows) == 1:
            return attention(q, k, v)
        weights = q.new_tensor([self.weights[row] for row in rows])
        shares = weights.log().repeat_interleave(k.shape[2] // len(rows))  # (S·N,)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=shares.expand(1, 1, q.shape[2], -1))


class KeepFeatures:
    """A tap that keeps `parts` ("q", "k", "v") of each row of the batch in half precision, and changes nothing."""

    def __init__(self, sites: Collection[str], parts: Sequence[Collection[str]]) -> None:
        self.sites, self.parts = frozenset(sites), parts
        self.pictures: list[dict[str, dict[str, Tensor]]] = [{} for _ in parts]

    def wants(self, site: Site) -> bool:
        return site.name in self.sites

    def qkv(self, site: Site, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        named = {"q": q, "k": k, "v": v}
        for row, (picture, parts) in enumerate(zip(self.pictures, self.parts, strict=True)):
            picture[site.name] = {part: named[part][row].to(torch.float16, copy=True) for part in parts}
        return q, k, v


def adain(content: Tensor, styles: Tensor, weights: Sequence[float]) -> Tensor:
    """Content (1, C, h, w) with the mean and deviation that the styles (S, C, h, w) have in each channel.

    Huang & Belongie 2017, equation 8; several styles by the weighted means of both, `weights` adding up to 1.
    """
    shares = styles.new_tensor(weights).view(-1, 1, 1, 1)
    mean = (shares * styles.mean((2, 3), keepdim=True)).sum(0, keepdim=True)
    deviation = (shares * styles.std((2, 3), keepdim=True)).sum(0, keepdim=True)
    own = content.std((2, 3), keepdim=True).clamp(min=1e-6)  # a picture of one colour may have none
    return (content - content.mean((2, 3), keepdim=True)) / own * deviation + mean
