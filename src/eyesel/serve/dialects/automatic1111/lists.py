"""The lists that clients ask for when they start, what makes them look again, and training, which is refused."""

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from eyesel.serve.dialects.automatic1111 import answers
from eyesel.serve.dialects.automatic1111.options import painters, title
from eyesel.serve.dialects.described import described
from eyesel.serve.engine import Engine
from eyesel.serve.errors import ApiError
from eyesel.serve.options import ServerOptions
from eyesel.weights.library import Library

EMPTY = ("sd-vae", "hypernetworks", "face-restorers", "realesrgan-models", "prompt-styles", "script-info", "extensions")
FRESH = ("refresh-loras", "refresh-embeddings", "refresh-vae")
TRAINING = ("create/embedding", "create/hypernetwork", "train/embedding", "train/hypernetwork")


def add_lists(routes: APIRouter, engine: Engine, options: ServerOptions) -> None:
    @routes.get("/sd-models", **described("The checkpoints.", "HOST/sdapi/v1/sd-models"))
    async def sd_models() -> JSONResponse:
        unknown = {"hash": None, "sha256": None, "config": None}
        return JSONResponse([
            {"title": title(card), "model_name": card.id, "filename": card.path.name, **unknown}
            for card in painters(engine)
        ])  # fmt: skip

    def listed(name: str, what: str, value: Callable[[], Any]) -> None:
        @routes.get(f"/{name}", **described(what, f"HOST/sdapi/v1/{name}"), name=name)
        async def listing() -> JSONResponse:
            return JSONResponse(await asyncio.to_thread(value))

    def library() -> Library | None:
        return Library.open(options.models_dir)

    listed("samplers", "The samplers.", answers.samplers)
    listed("schedulers", "The schedules.", answers.schedulers)
    listed("upscalers", "Upscalers of pictures.", answers.upscalers)
    listed("latent-upscale-modes", "Upscalers of latents.", answers.latent_upscalers)
    listed("loras", "The LoRAs of the folder of models.", lambda: answers.loras(library()))
    listed("embeddings", "The embeddings of the folder of models.", lambda: answers.embeddings(library()))
    listed("memory", "Memory, in bytes.", answers.memory)
    listed("cmd-flags", "How the server was started.", lambda: {"api": True, "nowebui": not options.web})
    listed("scripts", "There are none.", lambda: {"txt2img": [], "img2img": []})
    for name in EMPTY:
        listed(name, "There are none.", list)

    @routes.post("/refresh-checkpoints", **described(
        "Look for checkpoints in the folder of models again.", "-X POST HOST/sdapi/v1/refresh-checkpoints"
    ))  # fmt: skip
    async def refresh_checkpoints() -> JSONResponse:
        await asyncio.to_thread(engine.models.refresh)
        return JSONResponse({})

    def fresh(name: str) -> None:
        what = "There is nothing to do: the folder of models is read at each request."

        @routes.post(f"/{name}", **described(what, f"-X POST HOST/sdapi/v1/{name}"), name=name)
        async def refreshed() -> JSONResponse:
            return JSONResponse({})

    def refused(name: str) -> None:
        @routes.post(f"/{name}", include_in_schema=False, name=name)
        async def training() -> JSONResponse:
            raise ApiError(403, "A server trains nothing: `eyesel train` does.", None, "not_allowed")

    for name in FRESH:
        fresh(name)
    for name in TRAINING:
        refused(name)
