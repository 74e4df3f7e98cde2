"""The pictures of a request: as files, or in base64 among its fields."""

from collections.abc import Sequence
from typing import Any, TypeVar

from fastapi import Request

from eyesel.serve.dialects.automatic1111.fields import Asked
from eyesel.serve.dialects.parameters import understood
from eyesel.serve.errors import ApiError
from eyesel.serve.intake import Body, read_body


class OnePicture(Asked):
    image: str | None = None


P = TypeVar("P", bound=OnePicture)


async def one_picture(request: Request, kind: type[P]) -> tuple[Any, P]:
    """The picture that a request is about, and what it says; 404 without one, as in the program."""
    body = await read_body(request)
    asked = understood(kind, body.fields, 422)
    source = sent(body, "image", [asked.image])
    refuse_files(body)
    if source is None:
        raise ApiError(404, "Image not found: give one in image.", "image", "missing_parameter")
    return source, asked


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
