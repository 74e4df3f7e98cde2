"""txt2img and img2img, and what a client asks meanwhile: progress, interrupt, skip."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from eyesel.serve.access import client_of
from eyesel.serve.dialects.automatic1111 import answers
from eyesel.serve.dialects.automatic1111.fields import NAMES, ImageToImage, Processing, TextToImage
from eyesel.serve.dialects.automatic1111.options import FORMATS, Clients, Options
from eyesel.serve.dialects.automatic1111.requests import Work, image_to_image, text_to_image
from eyesel.serve.dialects.automatic1111.sent import refuse_files, sent
from eyesel.serve.dialects.described import AS_JSON, FOX, PICTURE, described
from eyesel.serve.dialects.parameters import spoken, understood
from eyesel.serve.dialects.pictures import base64_of
from eyesel.serve.engine import Engine
from eyesel.serve.errors import ApiError
from eyesel.serve.intake import picture, read_body
from eyesel.serve.options import ServerOptions


def add_painting(routes: APIRouter, engine: Engine, options: ServerOptions, clients: Clients) -> None:
    @routes.post("/txt2img", **described(
        "Paint from words.", AS_JSON + f"""-d '{{"prompt": "{FOX}", "steps": 4}}' HOST/sdapi/v1/txt2img""", TextToImage
    ))  # fmt: skip
    async def txt2img(request: Request) -> JSONResponse:
        asked = understood(TextToImage, (await read_body(request)).fields, 422)
        chosen = overridden(request, asked)
        return await painted(request, asked, chosen, text_to_image(asked, chosen))

    @routes.post("/img2img", **described(
        "Paint over a picture, or where a mask is white.",
        AS_JSON + f"""-d '{{"prompt": "{FOX}", "init_images": [{PICTURE}]}}' HOST/sdapi/v1/img2img""",
        ImageToImage,
    ))  # fmt: skip
    async def img2img(request: Request) -> JSONResponse:
        body = await read_body(request, "init_images")
        asked = understood(ImageToImage, body.fields, 422)
        chosen = overridden(request, asked)
        source, given_mask = sent(body, "init_images", asked.init_images or []), sent(body, "mask", [asked.mask])
        refuse_files(body)
        if source is None:
            raise ApiError(404, "Init image not found: give one in init_images.", "init_images")
        image = await picture(source, options, "init_images", "RGBA")
        mask = None if given_mask is None else await picture(given_mask, options, "mask", "RGBA")
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
        shown = pictures if asked.send_images is not False else []
        images = [await asyncio.to_thread(base64_of, each, format, quality) for each in shown]
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

    @routes.post("/skip", **described(
        "Cancel the first of your own jobs: the next one goes on.", "-X POST HOST/sdapi/v1/skip"
    ))  # fmt: skip
    async def skip(request: Request) -> JSONResponse:
        for job in clients.jobs(client_of(request.scope))[:1]:
            job.cancel()
        return JSONResponse({})
