"""What PEFT writes beside the factors of an adapter, and diffusers into the metadata of a file: how they are scaled."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eyesel.errors import CheckpointError

METADATA_KEY = "lora_adapter_metadata"
KINDS = ("LORA", "LOHA", "LOKR")


@dataclass(frozen=True)
class PeftConfig:
    """Of an adapter's configuration, what scales it: alpha / rank, or alpha / √rank (rsLoRA, Kalajdzievski 2023).

    The patterns give modules, by name or by the end of it, numbers of their own.
    """

    alpha: float | None = None
    rank: float | None = None
    root: bool = False
    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, float] = field(default_factory=dict)

    def scale(self, module: str, rank: int | None) -> float:
        """`rank` is that of the factors; None where nothing but the configuration says it."""
        alpha = _of(module, self.alphas, self.alpha)
        divisor = _of(module, self.ranks, self.rank) if rank is None else rank
        if alpha is None or not divisor:
            return 1.0
        return alpha / (math.sqrt(divisor) if self.root else divisor)


def _of(module: str, pattern: Mapping[str, float], usual: float | None) -> float | None:
    return next((value for key, value in pattern.items() if module == key or module.endswith(f".{key}")), usual)


def from_adapter_config(config: Mapping[str, Any], where: str) -> PeftConfig:
    """adapter_config.json of PEFT's LoRA, LoHa and LoKr."""
    kind = config.get("peft_type", "LORA")
    if kind not in KINDS:
        raise CheckpointError(f"{where} is an adapter of PEFT's type {kind!r}; eyesel reads {', '.join(KINDS)}.")
    return PeftConfig(
        alpha=_number(config.get("lora_alpha", config.get("alpha")), "alpha", where),
        rank=_number(config.get("r"), "r", where),
        root=bool(config.get("use_rslora")),
        alphas=_pattern(config, "alpha_pattern", where),
        ranks=_pattern(config, "rank_pattern", where),
    )


def _number(value: Any, name: str, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise CheckpointError(f"{where} gives {name} as {value!r}; it must be a number.")
    return float(value)


def _pattern(config: Mapping[str, Any], key: str, where: str) -> dict[str, float]:
    pattern = config.get(key) or {}
    if not isinstance(pattern, Mapping):
        raise CheckpointError(f"{where} has a {key} that is a {type(pattern).__name__}; it must be a table.")
    read = {}
    for name, value in pattern.items():
        module = name.removeprefix("^").replace("\\.", ".")
        if re.search(r"[^\w.]", module):  # a regular expression of a stranger may take for ever
            raise CheckpointError(f"{where} has the {key} {name!r}; eyesel reads names of modules there.")
        read[module] = _number(value, f"{name} in its {key}", where)
    return {module: value for module, value in read.items() if value is not None}


def from_metadata(metadata: Mapping[str, str], where: str) -> dict[str, PeftConfig]:
    """The configurations in a diffusers file, by the prefix of their modules ("unet.", ...), "" if it is a lone one."""
    if METADATA_KEY not in metadata:
        return {}
    try:
        entries = dict(json.loads(metadata[METADATA_KEY]))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{where} has metadata of its adapter that cannot be read: fetch it again.") from error
    by_prefix: dict[str, dict[str, Any]] = {}
    for key, value in entries.items():
        part, dot, name = key.rpartition(".")
        by_prefix.setdefault(part + dot, {})[name] = value
    return {prefix: from_adapter_config(config, where) for prefix, config in by_prefix.items()}
