"""What a client chooses, and the checkpoint that follows from it: options, reload-checkpoint, unload-checkpoint."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from eyesel.serve.access import client_of
from eyesel.serve.dialects.automatic1111.options import Clients, Options
from eyesel.serve.dialects.described import AS_JSON, described
from eyesel.serve.engine import Engine
from eyesel.serve.intake import read_body


def add_choices(routes: APIRouter, engine: Engine, clients: Clients) -> None:
    @routes.get("/options", **described("Your own options.", "HOST/sdapi/v1/options"))
    async def get_options(request: Request) -> JSONResponse:
        return JSONResponse(clients.options(client_of(request.scope)).told(engine))

    @routes.post("/options", **described(
        "Change some, and wait for the checkpoint.",
        AS_JSON + """-d '{"sd_model_checkpoint": "tiny"}' HOST/sdapi/v1/options""", Options,
    ))  # fmt: skip
    async def set_options(request: Request) -> JSONResponse:
        client = client_of(request.scope)
        chosen = clients.options(client).changed((await read_body(request)).fields, engine)
        await engine.load(chosen.model(engine))
        clients.keep(client, chosen)
        return JSONResponse({})

    @routes.post("/reload-checkpoint", **described("Load your checkpoint.", "-X POST HOST/sdapi/v1/reload-checkpoint"))
    async def reload(request: Request) -> JSONResponse:
        await engine.load(clients.options(client_of(request.scope)).model(engine))
        return JSONResponse({})

    @routes.post("/unload-checkpoint", **described(
        "Let go of your checkpoint's memory, until it is asked for.", "-X POST HOST/sdapi/v1/unload-checkpoint"
    ))  # fmt: skip
    async def unload(request: Request) -> JSONResponse:
        await engine.unload(clients.options(client_of(request.scope)).model(engine))
        return JSONResponse({})
