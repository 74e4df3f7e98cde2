"""The HTTP application: every dialect over one engine, and around them what guards and watches a server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException

from eyesel import __version__
from eyesel.errors import EyeselError
from eyesel.serve.access import Access
from eyesel.serve.body import BodyLimit
from eyesel.serve.checks import NAMES
from eyesel.serve.dialects import dialects, rendered
from eyesel.serve.docs import documented_app
from eyesel.serve.engine import Engine
from eyesel.serve.errors import ApiError, bad_input
from eyesel.serve.logs import RequestLog
from eyesel.serve.options import ServerOptions

GRACE = 10.0  # seconds for what runs when the server is stopped


def create_app(options: ServerOptions, engine: Engine | None = None, grace: float = GRACE) -> FastAPI:
    """The application of a server; the engine starts and stops with it, unless it is given and runs already.

    `grace` is how many seconds what runs has when the server is stopped.
    """
    engine = engine or Engine(options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await engine.start()
        yield
        await engine.stop(grace)

    app = documented_app(
        keys=bool(options.api_keys),
        title="eyesel",
        version=__version__,
        lifespan=lifespan,
        separate_input_output_schemas=False,
    )
    app.state.engine, app.state.options = engine, options
    _operations(app, engine)
    for dialect in dialects():
        app.include_router(dialect.router(engine, options))
    if options.web:
        _mount_page(app, engine, options)
    _errors(app)
    # the last one added is the first to see a request
    app.add_middleware(BodyLimit, limits=options.limits)
    app.add_middleware(Access, options=options)
    if options.cors:
        app.add_middleware(CORSMiddleware, allow_origins=list(options.cors), allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(RequestLog, metrics=engine.metrics)
    return app


def _mount_page(app: FastAPI, engine: Engine, options: ServerOptions) -> None:
    """The web page at `/`."""
    from eyesel.web import mount

    mount(app, engine, options)


def _operations(app: FastAPI, engine: Engine) -> None:
    @app.get("/health", tags=["operations"], summary="The process lives", description="```sh\ncurl HOST/health\n```")
    async def health() -> PlainTextResponse:
        return PlainTextResponse("Ok")

    @app.get("/ready", tags=["operations"], summary="Models are loaded", description="```sh\ncurl HOST/ready\n```")
    async def ready() -> Response:
        if not (engine.ready and engine.alive):
            raise ApiError(503, "The models are not loaded yet, or the server is stopping.", None, "not_ready", 5)
        return PlainTextResponse("Ok")

    @app.get("/metrics", tags=["operations"], summary="For Prometheus", description="```sh\ncurl HOST/metrics\n```")
    async def metrics() -> Response:
        models = {f"{kind} {id}": size for (kind, id), size in engine.models.loaded().items()}
        text = engine.metrics.text(engine.queues(), models)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _errors(app: FastAPI) -> None:
    """Whatever goes wrong is told in the shape of the dialect whose path it is."""

    @app.exception_handler(ApiError)
    async def api(request: Request, error: ApiError) -> Response:
        return rendered(error, request.scope["path"])

    @app.exception_handler(EyeselError)
    async def eyesel(request: Request, error: EyeselError) -> Response:
        return rendered(bad_input(error, NAMES), request.scope["path"])

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        first: dict[str, Any] = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:]) or None
        return rendered(ApiError(422, f"{field}: {first['msg']}.", field, "invalid_request"), request.scope["path"])

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        asked = f"{request.method} {request.scope['path'][:200]}"
        known = {
            404: (f"There is nothing at {asked}: see /docs.", "no_such_route"),
            405: (f"There is no {asked}: see /docs.", "method_not_allowed"),
        }
        message, code = known.get(error.status_code, (str(error.detail), None))
        response = rendered(ApiError(error.status_code, message, None, code), request.scope["path"])
        response.headers.update(error.headers or {})
        return response
