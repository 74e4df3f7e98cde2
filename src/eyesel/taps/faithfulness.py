"""Is a map true? Deletion and insertion curves (Petsiuk et al. 2018, "RISE", arXiv:1806.07421, section 4.3).

Take away what a map calls important, most important first: if the map is right, the score falls at once, and the area
under the curve is small. Add it to a blank picture in the same order: the score rises at once, and the area is large.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from eyesel.errors import SettingError


def curve(
    score: Callable[[Tensor], Tensor],
    pixels: Tensor,
    blank: Tensor,
    heat: Tensor,
    steps: int = 16,
    insertion: bool = False,
) -> Tensor:
    """The scores of B pictures from which ever more of their patches are taken: (steps + 1, B).

    `score` maps pixels (B, C, H, W) to (B,), `blank` is what pixels become where they are taken (broadcast to them),
    `heat` (B, rows, columns) ranks the patches, ties in reading order. `insertion` begins with `blank` and gives back
    the patches in the same order.
    """
    count, (rows, columns) = heat[0].numel(), heat.shape[1:]
    if not 1 <= steps <= count:
        raise SettingError(f"steps is {steps}; a map of {rows} x {columns} patches has from 1 to {count} of them.")
    height, width = pixels.shape[-2:]
    y = (torch.arange(height) // (height // rows)).clamp(
        max=rows - 1
    )  # what is left beyond the last patch goes with it
    x = (torch.arange(width) // (width // columns)).clamp(max=columns - 1)
    rank = heat.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(1).view_as(heat)  # 0 is the hottest
    rank = rank[:, y[:, None], x][:, None].to(pixels.device)  # (B, 1, H, W)
    scores = []
    for step in range(steps + 1):
        taken = (rank < count * step / steps) != insertion
        scores.append(score(torch.where(taken, blank, pixels)).float().cpu())
    return torch.stack(scores)


def area(scores: Tensor) -> Tensor:
    """The area under curves of n scores, (n, ...) -> (...), where the whole way counts as 1 (trapezoids)."""
    return (scores[1:] + scores[:-1]).mean(0) / 2
