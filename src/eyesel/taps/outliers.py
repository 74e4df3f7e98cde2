"""Outlier tokens: the few patches of large networks whose vectors are many times as long as the others'.

They lie where little is to be seen, hold knowledge of the whole picture instead of their place, and draw attention all
the same (Darcet et al. 2023, "Vision Transformers Need Registers", arXiv:2309.16588). In a map they are noise.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from eyesel.errors import SettingError


def find_outliers(norms: Tensor, ratio: float = 2.0) -> Tensor:
    """Which patches of (..., rows, columns) norms are longer than `ratio` medians of their picture: boolean, alike."""
    if not ratio > 1:
        raise SettingError(f"outlier_ratio is {ratio}; it must be above 1, the median: try 2.")
    return norms > ratio * norms.flatten(-2).median(-1).values[..., None, None]


def without_outliers(heat: Tensor, outliers: Tensor) -> Tensor:
    """Maps (..., rows, columns) whose outliers are the mean of their neighbours instead.

    Zero would say that nobody looked there, which is not known. What is surrounded by outliers is filled from the
    outside inwards.
    """
    kernel = torch.ones(1, 1, 3, 3)
    single = -1, 1, *heat.shape[-2:]
    values = heat.masked_fill(outliers, 0).reshape(single)  # (X, 1, rows, columns)
    known = (~outliers).expand(heat.shape).reshape(single).float()
    while not known.all():
        count = F.conv2d(known, kernel, padding=1)
        filled = F.conv2d(values, kernel, padding=1) / count.clamp(min=1)
        values = torch.where(known > 0, values, filled)
        known = (count > 0).float()
    return values.reshape(heat.shape)
