"""The languages that clients speak, one file each: its routes, and the shape of its errors.

A dialect is a module with `router(engine, options) -> APIRouter`, `owns(path) -> bool` and
`render(error) -> Response`.
"""

from importlib import import_module
from types import ModuleType

from starlette.responses import Response

from eyesel.serve.errors import ApiError

NAMES = ("native",)  # the first that owns a path answers for it; native owns them all


def dialects() -> list[ModuleType]:
    return [import_module(f"{__name__}.{name}") for name in NAMES]


def rendered(error: ApiError, path: str) -> Response:
    """The answer to a request to `path` that ended with `error`."""
    dialect = next(dialect for dialect in dialects() if dialect.owns(path))
    response: Response = dialect.render(error)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="eyesel", Basic realm="eyesel"'
    return response
