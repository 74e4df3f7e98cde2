"""AUTOMATIC1111's web API, as far as its clients use it: `/sdapi/v1/`.

`options.py` holds what a client has set, `requests.py` what a request says, `answers.py` what it is answered.
Progress, interruption and options are each client's own (by its key and address), not the whole server's.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from eyesel.serve.access import client_of
from eyesel.serve.dialects.automatic1111 import answers
from eyesel.serve.dialects.automatic1111.options import FORMATS, Clients, Options, painters, title
from eyesel.serve.dialects.automatic1111.requests import (
    NAMES,
    ImageToImage,
    Processing,
    TextToImage,
    Work,
    image_to_image,
    text_to_image,
)
from eyesel.serve.dialects.described import described
from eyesel.serve.dialects.parameters import Said, spoken, understood
from eyesel.serve.dialects.pictures import base64_of, texts_of
from eyesel.serve.engine import Engine
from eyesel.serve.errors import ApiError
from eyesel.serve.intake import picture, picture_bytes, read_body
from eyesel.serve.options import ServerOptions
from eyesel.weights.library import Library

FOX = "a large fox on a blue background"
_JSON = """-H "Content-Type: application/json" """


class PictureInfo(Said):
    image: str


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
    return path.startswith("/sdapi/")


def render(error: ApiError) -> Response:
    told = {"error": "HTTPException", "detail": error.message, "body": "", "errors": error.message}
    return JSONResponse(told, error.status)


def router(engine: Engine, options: ServerOptions) -> APIRouter:
    routes = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"], route_class=Timed)
    clients = Clients()

    @routes.post("/txt2img", **described(
        "Paint from words.", _JSON + f"""-d '{{"prompt": "{FOX}", "steps": 4}}' HOST/sdapi/v1/txt2img""", TextToImage
    ))  # fmt: skip
    async def txt2img(request: Request) -> JSONResponse:
        asked = understood(TextToImage, (await read_body(request)).fields, 422)
        chosen = overridden(request, asked)
        return await painted(request, asked, chosen, text_to_image(asked, chosen))

    @routes.post("/img2img", **described(
        "Paint over a picture, or where a mask is white.",
        _JSON + f"""-d '{{"prompt": "{FOX}", "init_images": ["'"$(base64 -w0 fox.png)"'"]}}' HOST/sdapi/v1/img2img""",
        ImageToImage,
    ))  # fmt: skip
    async def img2img(request: Request) -> JSONResponse:
        body = await read_body(request, "init_images")
        asked = understood(ImageToImage, body.fields, 422)
        chosen = overridden(request, asked)
        sources: list[Any] = [*body.files.pop("init_images", []), *(asked.init_images or [])]
        masks: list[Any] = [*body.files.pop("mask", []), *([asked.mask] if asked.mask else [])]
        for name, given in ("init_images", sources), ("mask", masks):
            if len(given) > 1:
                raise ApiError(422, f"{name} has {len(given)} pictures; one is taken.", name)
        for name in body.files:
            raise ApiError(422, f"There is no file {name[:100]!r} here.", name[:100], "unknown_parameter")
        if not sources:
            raise ApiError(404, "Init image not found: give one in init_images.", "init_images")
        image = await picture(sources[0], options, "init_images", "RGBA")
        mask = await picture(masks[0], options, "mask", "RGBA") if masks else None
        work = await asyncio.to_thread(image_to_image, asked, chosen, image, mask)
        return await painted(request, asked, chosen, work)

    def overridden(request: Request, asked: Processing) -> Options:
        client = client_of(request.scope)
        chosen = clients.options(client).changed(asked.override_settings or {}, engine, "override_settings")
        if asked.override_settings_restore_afterwards is False:
            clients.keep(client, chosen)
        return chosen

    async def painted(request: Request, asked: Processing, chosen: Options, work: Work) -> JSONResponse:
        client = client_of(request.scope)
        with spoken(NAMES):
            job = engine.submit(work.task, work.settings, work.images, work.n, chosen.model(engine), client)
            clients.begin(client, job)
            try:
                pictures = await engine.until_disconnected(request, job)
            finally:
                clients.end(client, job)
        format, quality = FORMATS[chosen.samples_format], chosen.jpeg_quality
        sent = pictures if asked.send_images is not False else []
        images = [await asyncio.to_thread(base64_of, each, format, quality) for each in sent]
        told = {"images": images, "parameters": answers.echo(asked), "info": answers.info(asked, pictures)}
        return JSONResponse(told)

    @routes.get("/progress", **described("How far your own job is.", "HOST/sdapi/v1/progress"))
    async def progress(request: Request, skip_current_image: bool = False) -> JSONResponse:
        job = next(iter(clients.jobs(client_of(request.scope))), None)
        preview = None if job is None or skip_current_image else job.preview()
        current = None if preview is None else await asyncio.to_thread(base64_of, preview)
        return JSONResponse(answers.progress(job, current))

    @routes.post("/interrupt", **described("Cancel your own jobs.", "-X POST HOST/sdapi/v1/interrupt"))
    async def interrupt(request: Request) -> JSONResponse:
        for job in clients.jobs(client_of(request.scope)):
            job.cancel()
        return JSONResponse({})

    @routes.get("/options", **described("Your own options.", "HOST/sdapi/v1/options"))
    async def get_options(request: Request) -> JSONResponse:
        return JSONResponse(clients.options(client_of(request.scope)).told(engine))

    @routes.post("/options", **described(
        "Change some, and wait for the checkpoint.",
        _JSON + """-d '{"sd_model_checkpoint": "tiny"}' HOST/sdapi/v1/options""", Options,
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

    @routes.post("/png-info", **described(
        "How a picture was painted.", _JSON + """-d '{"image": "'"$(base64 -w0 fox.png)"'"}' HOST/sdapi/v1/png-info""",
        PictureInfo,
    ))  # fmt: skip
    async def png_info(request: Request) -> JSONResponse:
        body = await read_body(request)
        files = body.files.get("image")
        data = files[0] if files else await picture_bytes(understood(PictureInfo, body.fields, 422).image, options)
        return JSONResponse(answers.picture_info(await asyncio.to_thread(texts_of, data)))

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
    for name in ("sd-vae", "hypernetworks", "face-restorers", "realesrgan-models", "prompt-styles", "script-info"):
        listed(name, "There are none.", list)
    listed("extensions", "There are none.", list)
    return routes
