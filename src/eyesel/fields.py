"""What configurations and settings may say: the dataclasses that hold it are checked against their annotations."""

import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from eyesel.errors import CheckpointError, EyeselError

MOST = 1_000_000
LARGEST = 1e30  # of a number with a fraction: what float32 holds, with room to compute

# Whole numbers carry the range that is allowed, tuples the range of their lengths; a plain int is from 1 up.
Count = Annotated[int, range(MOST + 1)]
Depth = Annotated[int, range(1, 1001)]
Layers = Annotated[int, range(1001)]
Levels = range(1, 17)


def plain(value: Any) -> Any:
    """A number of numpy (or an array of no dimensions) as Python's, in tuples and lists, too; all else as it is."""
    if isinstance(value, tuple | list):
        return type(value)(map(plain, value)) if type(value) in (tuple, list) else value
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def check_fields(config: Any, error: type[EyeselError] = CheckpointError) -> None:
    """Raise unless every field of the dataclass holds what its annotation says; numbers are finite, True is no int.

    Numbers of numpy become Python's.
    """
    for field in fields(config):
        value = plain(getattr(config, field.name))
        object.__setattr__(config, field.name, value)  # of a frozen one, too
        if not _fits(value, field.type):
            shown = repr(value)
            shown = shown if len(shown) <= 100 else f"{shown[:100]}..."
            raise error(f"{field.name} is {shown}; it must be {_allowed(field.type)}.")


def _unwrapped(kind: Any) -> tuple[Any, range | None]:
    if get_origin(kind) is Annotated:
        bare, limits = get_args(kind)
        return bare, limits
    return kind, None


def _fits(value: Any, kind: Any) -> bool:
    kind, limits = _unwrapped(kind)
    if get_origin(kind) in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple) or len(value) not in (limits or range(1, MOST + 1)):
            return False
        item, *rest = get_args(kind)
        return (rest == [...] or len(value) == 1 + len(rest)) and all(_fits(each, item) for each in value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and value in (limits or range(1, MOST + 1))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST
    return isinstance(value, kind)


def _allowed(kind: Any) -> str:
    kind, limits = _unwrapped(kind)
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_allowed(choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        item, *rest = get_args(kind)
        number = (
            f"{1 + len(rest)} entries" if rest != [...] else f"at most {limits[-1]} entries" if limits else "entries"
        )
        return f"a list of {number}, each {_allowed(item)}"
    if kind is int:
        limits = limits or range(1, MOST + 1)
        return f"a whole number from {limits[0]:,} to {limits[-1]:,}"
    return {float: "a finite number", bool: "true or false", str: "a text", types.NoneType: "null"}.get(kind, str(kind))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """The net under the functions that open a checkpoint: whatever its files make them trip over is one sentence."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path} has a configuration that cannot be read ({' '.join(repr(error).split())[:200]}): fetch it again."
        ) from error
