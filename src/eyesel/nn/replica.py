"""Another version of a model in the same memory: what changes is new, everything else is shared.

Models are never altered while they serve. A LoRA, seamless edges, another precision or another device make a replica
of the module tree whose untouched parameters *are* those of the original; dropping it leaves no trace, and two threads
can use the original and any number of replicas at once.
"""

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def replica(model: Model, change: Callable[[str, Tensor], Tensor] = lambda _, weight: weight) -> Model:
    """The same modules anew; parameter `name` is `change(name, weight)`, and shared where that is `weight` itself."""
    memo: dict[int, object] = {}
    for name, parameter in model.named_parameters():
        weight = change(name, parameter)
        memo[id(parameter)] = parameter if weight is parameter else nn.Parameter(weight, requires_grad=False)
    return copy.deepcopy(model, memo)
