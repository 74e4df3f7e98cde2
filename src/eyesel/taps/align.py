"""Pictures of one style (StyleAligned, Hertz et al. 2024, figure 4): self-attention that looks at the first one, too.

Queries and keys of every row get the mean and the deviation of the first row's (AdaIN, Huang & Belongie 2017), and the
first row's keys and values stand beside its own. The reference is google/style-aligned, `sa_handler.py`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from eyesel.nn.aligned import of_first
from eyesel.nn.attention import Site

EPS = 1e-5


def adain(x: Tensor, count: int) -> Tensor:
    """Each row (B, h, N, d) with the mean and deviation over the tokens that the first row of its group has."""
    mean, deviation = x.mean(dim=-2, keepdim=True), (x.var(dim=-2, keepdim=True) + EPS).sqrt()
    return (x - mean) / deviation * of_first(deviation, count) + of_first(mean, count)


@dataclass(frozen=True)
class AlignStyle:
    """A tap for `count` pictures in one batch; the first is painted as it would be alone."""

    count: int

    def wants(self, site: Site) -> bool:
        return not site.cross

    def qkv(self, site: Site, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k = adain(q, self.count), adain(k, self.count)
        k, v = (torch.cat([each, of_first(each, self.count)], dim=-2) for each in (k, v))  # (B, h, 2N, d)
        return q, k, v
