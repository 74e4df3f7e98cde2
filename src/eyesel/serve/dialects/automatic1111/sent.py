"""The pictures of a request: as files, or in base64 among its fields."""

from collections.abc import Sequence
from typing import Any

from eyesel.serve.errors import ApiError
from eyesel.serve.intake import Body


def sent(body: Body, field: str, said: Sequence[str | None] = ()) -> Any:
    """The picture that was sent as the file `field`, or `said` in it; None if there is none. Several are a 422."""
    given = [*body.files.pop(field, []), *(each for each in said if each)]
    if len(given) > 1:
        raise ApiError(422, f"{field} has {len(given)} pictures; one is taken.", field)
    return given[0] if given else None


def refuse_files(body: Body) -> None:
    """Of the files that nobody has taken."""
    for name in body.files:
        raise ApiError(422, f"There is no file {name[:100]!r} here.", name[:100], "unknown_parameter")
