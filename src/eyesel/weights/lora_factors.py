"""From the tensors that a LoRA file has for one module to the change that they describe."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from eyesel.errors import CheckpointError
from eyesel.nn.lora import Change, Decomposed, Factored, Hadamard, Kronecker, LowRank, Rescaled, Whole
from eyesel.weights.peft_config import PeftConfig
from eyesel.weights.views import StoredTensor

_VECTORS = ("alpha", "on_input", "magnitude", "row_magnitude", "diff", "bias", "product_bias", "rescaling")


@dataclass(frozen=True, eq=False)
class Module:
    """The changes of one module by the name of the parameter, `weight` or `bias`, and what a person wants to know."""

    changes: Mapping[str, Change]
    kind: str
    rank: int | None
    alpha: float | None
    decomposed: bool

    @property
    def columns(self) -> int | None:
        """How many numbers the module takes, a position of a convolution's kernel counting as one more."""
        change = self.changes.get("weight")
        change = change.direction if isinstance(change, Decomposed) else change
        return change.sides[1] if isinstance(change, Factored) and change.sides else None


def module_of(
    name: str, tensors: Mapping[str, StoredTensor], config: PeftConfig, where: str, config_name: str
) -> Module:
    """`tensors` by their factor, as `lora_spelling` names it; `config` scales where the file has no alpha, and knows
    the module as `config_name`.
    """
    parts = _Parts(f"{where}: the change of {name}", {factor: stored.mapped() for factor, stored in tensors.items()})
    alpha = parts.number("alpha")

    def scale(rank: int | None) -> float:
        if alpha is None:
            return config.scale(config_name, rank)
        return alpha / rank if alpha and rank else 1.0

    changes: dict[str, Change] = {}
    rank: int | None = None
    kind = "LoRA"
    if parts.has("down") or parts.has("up"):
        low_rank = parts.low_rank("down", "up", "core", transposed=False)
        rank = low_rank.down.shape[0]
        changes["weight"] = LowRank(low_rank.down, low_rank.up, scale(rank), low_rank.core)
    elif parts.has("hada_w1_a"):
        kind = "LoHa"
        one, other = (parts.low_rank(f"hada_w{i}_b", f"hada_w{i}_a", f"hada_t{i}") for i in (1, 2))
        rank = one.down.shape[0]
        changes["weight"] = Hadamard(one, other, scale(rank))
    elif parts.has("lokr_w1") or parts.has("lokr_w1_a"):
        kind = "LoKr"
        left, right = parts.side("lokr_w1", "lokr_t1"), parts.side("lokr_w2", "lokr_t2")
        rank = next((side.down.shape[0] for side in (left, right) if isinstance(side, LowRank)), None)
        changes["weight"] = Kronecker(left, right, scale(rank))
    elif parts.has("rescaling"):
        kind = "(IA)³"
        columns = bool(parts.number("on_input"))
        changes["weight"] = Rescaled(parts.take("rescaling"), columns)
    elif parts.has("diff"):
        kind = "difference"
        changes["weight"] = Whole(parts.take("diff"))

    decomposed = parts.has("magnitude") or parts.has("row_magnitude")
    if decomposed and "weight" in changes:
        magnitude = parts.take("magnitude") if parts.has("magnitude") else parts.take("row_magnitude").flatten()
        changes["weight"] = Decomposed(changes["weight"], magnitude)
    if parts.has("bias"):
        changes["bias"] = Whole(parts.take("bias"))
    elif parts.has("product_bias"):
        changes["bias"] = Whole(parts.take("product_bias"), scale(rank))
    parts.check_empty()
    return Module(changes, kind, rank, alpha, decomposed)


class _Parts:
    """The tensors of a module, taken one by one: what is missing is an error, and so is what nobody takes."""

    def __init__(self, what: str, tensors: dict[str, Tensor]) -> None:
        self.what, self.tensors = what, tensors
        for factor, tensor in tensors.items():
            if tensor.dim() < 2 and factor not in _VECTORS:
                raise CheckpointError(f"{what} has a {factor} of shape {tuple(tensor.shape)}, which is no matrix.")
            if not tensor.numel() or not (tensor.is_floating_point() or factor in ("alpha", "on_input")):
                raise CheckpointError(f"{what} has a {factor} without numbers: download the file again.")

    def has(self, factor: str) -> bool:
        return factor in self.tensors

    def take(self, factor: str) -> Tensor:
        if factor not in self.tensors:
            raise CheckpointError(f"{self.what} lacks its {factor}: download the file again.")
        return self.tensors.pop(factor)

    def number(self, factor: str) -> float | None:
        if not self.has(factor):
            return None
        tensor = self.take(factor)
        if tensor.numel() != 1 or not math.isfinite(value := float(tensor)):
            raise CheckpointError(f"{self.what} has a {factor} that is no number: download the file again.")
        return value

    def low_rank(self, down: str, up: str, core: str, transposed: bool = True) -> LowRank:
        """A product of two; around a core, LyCORIS keeps the second factor `transposed`."""
        middle = self.take(core) if self.has(core) else None
        second = self.take(up)
        return LowRank(
            self.take(down), second.flatten(1).t() if middle is not None and transposed else second, 1, middle
        )

    def side(self, name: str, core: str) -> Factored:
        """One side of a Kronecker product: whole, or a product itself."""
        return Whole(self.take(name)) if self.has(name) else self.low_rank(f"{name}_b", f"{name}_a", core)

    def check_empty(self) -> None:
        if self.tensors:
            raise CheckpointError(f"{self.what} has a {next(iter(self.tensors))} that belongs to nothing else in it.")
