"""What the requests of the dialects may say, and the way from their words to eyesel's settings and back.

A dialect's own parameters are a pydantic model that refuses what it does not know; eyesel's settings are taken out
before, under any of their names. What the engine then says of them is told to the client in the client's words.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from eyesel.serve.errors import ApiError
from eyesel.serve.intake import strict_json
from eyesel.settings import ELSEWHERE, Settings
from eyesel.stylize import StyleSettings


class Said(BaseModel):
    """The parameters of a request; whatever else is in it is refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


S = TypeVar("S", bound=Said)


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool)]

_MISSING = "missing"
_UNKNOWN = "extra_forbidden"


def understood(kind: type[S], said: Mapping[str, Any], status: int = 400, within: str | None = None) -> S:
    """`said`, which stands in the field `within`, as a model.

    Raises `ApiError` with `status` for the first parameter that is unknown or impossible.
    """
    try:
        return kind.model_validate(dict(said))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    path = [*([within] if within else []), *(str(part) for part in first["loc"])]
    field = ".".join(path)[:100]
    if first["type"] == _MISSING:
        raise ApiError(status, f"{field} is missing.", field, "missing_parameter")
    if first["type"] == _UNKNOWN:
        known = [each.alias or name for name, each in kind.model_fields.items()]
        near = get_close_matches(path[-1], known, 1)
        advice = f": did you mean {near[0]!r}?" if near else "."
        raise ApiError(status, f"There is no parameter {field!r} here{advice}", field, "unknown_parameter")
    words = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    raise ApiError(status, f"{field} is {first['input']!r:.100}: it {words}.", field, "invalid_request")


_KINDS = {field.name: field.type for kind in (StyleSettings, Settings) for field in fields(kind)}
_OTHERS = {other: ours for other, ours in ELSEWHERE.items() if ours in _KINDS and ours != "size"}


def take_settings(
    said: dict[str, Any], kind: type[Settings] | type[StyleSettings] = Settings
) -> tuple[dict[str, Any], dict[str, str]]:
    """Take out of `said` what eyesel's settings are called here or elsewhere: by their own names, and these names.

    The texts of forms become what they stand for. Whether a setting can have its value is seen where it is used.
    """
    own = {field.name for field in fields(kind)}
    settings: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name in list(said):
        ours = name if name in own else _OTHERS.get(name)
        if ours is None or ours not in own:
            continue
        value = said.pop(name)
        if value is None:
            continue
        if ours in settings:
            raise ApiError(400, f"{name} and {names[ours]} are the same: give one.", name, "invalid_request")
        settings[ours], names[ours] = _value(ours, value), name
    return settings, names


def _value(name: str, value: Any) -> Any:
    return value if _KINDS[name] in (str, str | None) else _meant(name, value)


def _meant(name: str, value: Any) -> Any:
    """What the texts of a form stand for; a text that stands for nothing is refused later, as it is."""
    if isinstance(value, list):
        return [_meant(name, each) for each in value]
    if not isinstance(value, str):
        return value
    for attempt in (value, value.lower(), f"[{value}]", f"[{value.lower().replace('x', ',')}]"):
        try:
            meant = strict_json(attempt)
        except (ValueError, RecursionError):
            continue
        if not isinstance(meant, list) or "[" in value or "tuple" in str(_KINDS[name]):
            return meant
    return value


def size_of(text: str | None, field: str = "size") -> tuple[int, int] | None:
    """(width, height) of "512x768"; None for "auto"."""
    if text is None or text == "auto":
        return None
    sides = re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8})", text.lower(), re.ASCII)
    if sides is None:
        raise ApiError(
            400, f"{field} is {text!r:.100}; it must be WIDTHxHEIGHT, such as 512x512, or auto.", field, "invalid_size"
        )
    return int(sides[1]), int(sides[2])


@contextmanager
def spoken(names: Mapping[str, str]) -> Iterator[None]:
    """Errors inside tell the client's own names of eyesel's settings."""
    try:
        yield
    except ApiError as error:
        theirs = names.get(error.param or "")
        if theirs is None or theirs == error.param:
            raise
        message = error.message
        if message.startswith(f"{error.param} "):
            message = f"{theirs}{message.removeprefix(str(error.param))}"
        raise ApiError(error.status, message, theirs, error.code, error.retry_after) from None
