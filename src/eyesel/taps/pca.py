"""Patch features as colours: their first three principal components (Oquab et al. 2023, "DINOv2", figure 1)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from eyesel.errors import SettingError


def pca_colours(features: Sequence[Tensor], left_out: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Features (patches, dim) of one or several pictures -> colours (patches, 3) from 0 to 1.

    The pictures share their components, so that equal colours mean alike features. `left_out` marks patches (patches,),
    boolean, that have no say in what the components are. A component runs from its 1st percentile to its 99th, and
    points where its largest weight is positive.
    """
    everything = torch.cat(list(features)).double()  # (n, dim)
    counted = everything if left_out is None else everything[~torch.cat(list(left_out))]
    if everything.shape[-1] < 3:
        raise SettingError(
            f"features of {everything.shape[-1]} numbers have no three components to be shown as colours."
        )
    mean = counted.mean(0)
    covariance = (counted - mean).T @ (counted - mean) / len(counted)
    components = torch.linalg.eigh(covariance).eigenvectors[:, -3:].flip(-1)  # (dim, 3), the strongest first
    largest = components.gather(0, components.abs().argmax(0, keepdim=True))
    components = components * largest.sign()
    low, high = torch.quantile((counted - mean) @ components, torch.tensor([0.01, 0.99]).double(), dim=0)
    span = torch.where(high > low, high - low, 1.0)
    return [(((picture.double() - mean) @ components - low) / span).clamp(0, 1).float() for picture in features]
