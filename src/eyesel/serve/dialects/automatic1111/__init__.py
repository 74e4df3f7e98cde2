"""AUTOMATIC1111's web API, as far as its clients use it: `/sdapi/v1/`.

The routes are in `painting.py` (txt2img, img2img and what goes with them), `looking.py` (interrogate, png-info),
`extras.py` (enlarging), `lists.py` and `choices.py` (options and checkpoints). `fields.py` holds the fields of a
painting, `requests.py` what they are as settings, `options.py` what a client has set, `answers.py` what it is answered.
Progress, interruption and options are each client's own (by its key and address), not the whole server's.
"""

import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from eyesel.serve.dialects.automatic1111.choices import add_choices
from eyesel.serve.dialects.automatic1111.extras import add_extras
from eyesel.serve.dialects.automatic1111.lists import add_lists
from eyesel.serve.dialects.automatic1111.looking import add_looking
from eyesel.serve.dialects.automatic1111.options import Clients
from eyesel.serve.dialects.automatic1111.painting import add_painting
from eyesel.serve.dialects.described import described
from eyesel.serve.engine import Engine
from eyesel.serve.errors import ApiError
from eyesel.serve.options import ServerOptions

PREFIX = "/sdapi/v1"
ALIVE = ("/internal/ping", "/queue/status")  # outside of it, by which some clients find out whether there is a server


class Timed(APIRoute):
    """Says how long an answer took, as AUTOMATIC1111 does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def timed(request: Request) -> Response:
            started = time.monotonic()
            response: Response = await handle(request)
            response.headers["X-Process-Time"] = f"{time.monotonic() - started:.4f}"
            return response

        return timed


def owns(path: str) -> bool:
    return path.startswith("/sdapi/") or path in ALIVE


def render(error: ApiError) -> Response:
    told = {"error": "HTTPException", "detail": error.message, "body": "", "errors": error.message}
    return JSONResponse(told, error.status)


def router(engine: Engine, options: ServerOptions) -> APIRouter:
    routes = APIRouter(tags=["AUTOMATIC1111"], route_class=Timed)
    clients = Clients()
    within = APIRouter(prefix=PREFIX, route_class=Timed)
    add_painting(within, engine, options, clients)
    add_looking(within, engine, options, clients)
    add_extras(within, engine, options, clients)
    add_choices(within, engine, clients)
    add_lists(within, engine, options)
    routes.include_router(within)

    @routes.get("/internal/ping", **described("The process lives.", "HOST/internal/ping"))
    async def ping() -> JSONResponse:
        return JSONResponse({})

    @routes.get("/queue/status", **described("How many jobs wait, as Gradio says it.", "HOST/queue/status"))
    async def queue_status() -> JSONResponse:
        return JSONResponse({"msg": "estimation", "queue_size": engine.queues()["jobs"]})

    return routes
