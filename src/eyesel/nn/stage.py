"""A model at work: on the device that computes, and in a precision in which what it says are numbers.

Weights may wait in the memory of the host until they are needed, and half precision overflows now and then. Both are
met by a replica that lives as long as the work: the model itself stays where and as it is.
"""

import warnings
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from eyesel.nn.replica import replica

Model = TypeVar("Model", bound=nn.Module)
Result = TypeVar("Result", Tensor, tuple[Tensor, Tensor])


class Stage(Generic[Model]):
    """Made for one call, and used by it alone. `device` is where the model is to work."""

    def __init__(self, model: Model, device: torch.device) -> None:
        self._model, self.device = model, device
        self._working: Model | None = None

    def run(self, use: Callable[[Model, torch.dtype], Result]) -> Result:
        """`use(model, its dtype)`; if half precision gives no numbers (NaN, infinity), the same again in float32.

        Float32 then stays for the rest of the call.
        """
        model = self._placed()
        dtype = next(model.parameters()).dtype
        result = use(model, dtype)
        tensors = result if isinstance(result, tuple) else (result,)
        if dtype == torch.float32 or all(bool(each.isfinite().all()) for each in tensors):
            return result
        name = type(model).__name__
        warnings.warn(f"{name} overflowed in {str(dtype)[6:]}: it goes on in float32, which is slower", stacklevel=2)
        self._working = replica(model, lambda _, weight: weight.float())
        return use(self._working, torch.float32)

    def _placed(self) -> Model:
        if self._working is None:
            here = next(self._model.parameters()).device == self.device
            self._working = self._model if here else replica(self._model, lambda _, weight: weight.to(self.device))
        return self._working

    def leave(self) -> None:
        """Make room for the next model; what was copied or converted is gone unless somebody else holds it."""
        self._working = None
