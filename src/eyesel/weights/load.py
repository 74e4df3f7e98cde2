"""From files to a model: built on the meta device, filled from mapped files, strict about every name and shape."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from eyesel.errors import CheckpointError
from eyesel.weights.placement import choose_precision
from eyesel.weights.rename import RenameTable
from eyesel.weights.views import StoredTensor

Model = TypeVar("Model", bound=nn.Module)


def renamed(tensors: Mapping[str, StoredTensor], table: RenameTable, where: str) -> dict[str, StoredTensor]:
    """The file's tensors under our names; an error names those that the format does not have."""
    result, unknown = table.renamed(tensors)
    if unknown:
        raise CheckpointError(f"{where} has tensors that this format does not have: {listed(unknown)}.")
    return result


def shapes_of(tensors: Mapping[str, StoredTensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(stored.shape) for name, stored in tensors.items()}


def build(factory: Callable[[], Model]) -> Model:
    """A model without memory: every parameter is on the meta device."""
    try:
        with torch.device("meta"):
            return factory()
    except RuntimeError as error:  # more numbers than there are addresses
        raise CheckpointError(
            f"The configuration asks for sizes that cannot be built ({str(error).splitlines()[0]})."
        ) from error


def fill(
    model: Model,
    tensors: Mapping[str, StoredTensor],
    where: str,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Model:
    """Give a meta-device model its weights, in evaluation mode and without gradients.

    `dtype` None keeps the file's own, and then weights on the CPU are views of the file (eight-bit floats, in which
    nothing can be computed, become bfloat16, which holds them exactly). Otherwise one tensor at a
    time is read and converted, so that the peak is the model and one tensor. Missing, left-over and mis-shaped names
    raise one error.
    """
    expected, modules = dict(model.named_parameters()), dict(model.named_modules())
    _check(expected, tensors, where)
    for name, parameter in expected.items():
        tensor = _placed(tensors[name], device, dtype).reshape(parameter.shape)
        owner, _, leaf = name.rpartition(".")
        setattr(modules[owner], leaf, nn.Parameter(tensor, requires_grad=False))
    return model.eval()


def _placed(stored: StoredTensor, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    eight_bits = stored.dtype.is_floating_point and stored.dtype.itemsize == 1
    target = dtype or (torch.bfloat16 if eight_bits else stored.dtype)
    if device.type == "cpu" and target == stored.dtype:
        return stored.mapped()
    tensor = stored.read()  # a view of this tensor alone, gone after its conversion
    # convolutions run channels-last, and would rearrange their weights in every call
    layout = torch.channels_last if tensor.dim() == 4 else torch.preserve_format
    return tensor.to(device=device, dtype=target, memory_format=layout)


def _check(expected: Mapping[str, Tensor], found: Mapping[str, StoredTensor], where: str) -> None:
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"lacks {listed(missing)}")
    if extra := [name for name in found if name not in expected]:
        problems.append(f"has {listed(extra)} left over")
    if wrong := [
        f"{name} as {tuple(found[name].shape)} instead of {tuple(parameter.shape)}"
        for name, parameter in expected.items()
        if name in found and not _same_numbers(tuple(found[name].shape), tuple(parameter.shape))
    ]:
        problems.append(f"has {listed(wrong)}")
    if whole := [n for n in expected if n in found and not found[n].dtype.is_floating_point]:
        problems.append(f"has {listed(whole)} in another type than floating-point numbers")
    if problems:
        raise CheckpointError(f"{where} does not fit its configuration: it {'; it '.join(problems)}.")


def _same_numbers(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Equal shapes, or a matrix stored as a 1x1 convolution, as old autoencoders have it."""
    return found == expected or found == (*expected, 1, 1)


def listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@dataclass(frozen=True)
class StoredModel(Generic[Model]):
    """A model in its file: everything about it but its memory; `tensors` are under our names."""

    kind: Callable[[Any], Model]  # from a config to a model
    config: Any
    tensors: Mapping[str, StoredTensor]
    where: str

    def load(self, device: torch.device, precision: str = "auto", storage: torch.device | None = None) -> Model:
        """The model in the precision that suits `device`, there or in `storage` until it is needed."""
        model = build(lambda: self.kind(self.config))
        parameters = sum(p.numel() for p in model.parameters())
        dtype = choose_precision(precision, device, parameters)
        return fill(model, self.tensors, self.where, storage or device, dtype)

    def check(self) -> None:
        """Raise unless the tensors are those of the configuration, each of its shape."""
        _check(dict(build(lambda: self.kind(self.config)).named_parameters()), self.tensors, self.where)


def load(
    factory: Callable[[Mapping[str, tuple[int, ...]]], Model],
    tensors: Mapping[str, StoredTensor],
    table: RenameTable,
    where: Path,
    device: torch.device,
    precision: str = "auto",
) -> Model:
    """Rename, build and fill. `factory` makes the model, given the shapes under our names."""
    tensors = renamed(tensors, table, str(where))
    shapes = shapes_of(tensors)
    model = build(lambda: factory(shapes))
    parameters = sum(p.numel() for p in model.parameters())
    return fill(model, tensors, str(where), device, choose_precision(precision, device, parameters))
