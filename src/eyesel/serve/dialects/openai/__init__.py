"""OpenAI's Images API: `/v1/images/generations`, `edits`, `variations` and `/v1/models`, as forms or JSON.

Beyond it, at the top level (`extra_body` of OpenAI's client): `seed`, and all settings of eyesel by their own names or
those of diffusers. What OpenAI documents and nothing here can do is refused; what only informs OpenAI is accepted, and
named in the header `X-Eyesel-Ignored`. `requests.py` holds what a request says, `answers.py` what it is answered.
"""

import asyncio
import re
import time
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image
from pydantic import Field

from eyesel.images import fitted
from eyesel.picture import Picture
from eyesel.serve.access import client_of
from eyesel.serve.checks import check_sizes
from eyesel.serve.dialects.described import described
from eyesel.serve.dialects.openai.answers import described_as, error_body, events, model_entry
from eyesel.serve.dialects.openai.requests import (
    Edit,
    Generation,
    Order,
    Variation,
    check_prompt,
    order,
    refuse_files,
    repainted,
    said_in,
    taken,
)
from eyesel.serve.dialects.parameters import size_of, spoken, take_settings, understood
from eyesel.serve.dialects.pictures import MEDIA_TYPES, base64_of, encoded, words_for
from eyesel.serve.engine import Engine
from eyesel.serve.errors import ApiError
from eyesel.serve.intake import picture, picture_bytes, read_body
from eyesel.serve.jobs import Job
from eyesel.serve.options import ServerOptions
from eyesel.settings import Settings
from eyesel.stylize import StyleSettings

FOX = "a large fox on a blue background"
_PAINT = f"""-H "Content-Type: application/json" -d '{{"prompt": "{FOX}"}}' HOST/v1/images/generations"""
MOST_PICTURES = 16  # of an edit, as at OpenAI
IGNORED = ("user", "moderation", "style", "input_fidelity")


def owns(path: str) -> bool:
    return path.startswith("/v1/")


def render(error: ApiError) -> Response:
    # what has failed for a reason would fail again: OpenAI's client tries a 5xx three times
    headers = {"x-should-retry": "false"} if error.status == 500 else {}
    return JSONResponse(error_body(error), error.status, headers)


def router(engine: Engine, options: ServerOptions) -> APIRouter:
    routes = APIRouter(tags=["OpenAI"])

    @routes.post("/v1/images/generations", **described("Paint from words.", _PAINT, Generation))
    async def generations(request: Request) -> Response:
        body = await read_body(request)
        refuse_files(body)
        settings, names = take_settings(body.fields)
        asked = understood(Generation, said_in(body.fields))
        check_prompt(asked.prompt)
        return await answer(request, order("generate", asked, settings, names, {}))

    @routes.post("/v1/images/edits", **described(
        "Edit a picture: repaint it, or where the mask is transparent; with more pictures, in their style.",
        f"-F image=@fox.png -F prompt='{FOX}' -F steps=4 HOST/v1/images/edits", Edit, ("image", "mask"),
    ))  # fmt: skip
    async def edits(request: Request) -> Response:
        body = await read_body(request)
        sources, masks = taken(body, "image", "images"), taken(body, "mask")
        refuse_files(body)
        if not 1 <= len(sources) <= MOST_PICTURES:
            raise ApiError(400, f"There are {len(sources)} pictures; give from 1 to 16.", "image", "invalid_request")
        if len(masks) > 1:
            raise ApiError(400, f"There are {len(masks)} masks; there is one for the first picture.", "mask")
        several = len(sources) > 1
        settings, names = take_settings(body.fields, StyleSettings if several else Settings)
        asked = understood(Edit, said_in(body.fields))
        check_prompt(asked.prompt)
        first = await picture(sources[0], options, "image", "RGBA")
        shown = await picture(masks[0], options, "mask", "RGBA") if masks else first
        mask = await asyncio.to_thread(repainted, shown, bool(masks))
        if mask is not None and mask.size != first.size:
            raise ApiError(
                400,
                f"mask has {mask.width}x{mask.height} pixels and image {first.width}x{first.height}: make them equal.",
                "mask",
                "invalid_request",
            )
        if not several:
            images = {"image": first, "mask": mask}
            return await answer(
                request, order("generate" if mask is None else "inpaint", asked, settings, names, images)
            )
        styles = [await picture(source, options, "image") for source in sources[1:]]
        size = size_of(asked.size)
        if size is not None:
            check_sizes(options.limits, "size", size)
            first = await asyncio.to_thread(fitted, first, size, "crop")
            mask = mask and await asyncio.to_thread(fitted, mask, size, "crop", Image.Resampling.NEAREST)
        return await answer(
            request, order("stylize", asked, settings, names, {"image": first, "mask": mask, "style": styles})
        )

    @routes.post("/v1/images/variations", **described(
        "Paint a picture anew.", "-F image=@fox.png -F steps=4 HOST/v1/images/variations", Variation, ("image",),
    ))  # fmt: skip
    async def variations(request: Request) -> Response:
        body = await read_body(request)
        sources = taken(body, "image")
        refuse_files(body)
        if len(sources) != 1:
            raise ApiError(400, f"There are {len(sources)} pictures; give one.", "image", "invalid_request")
        settings, names = take_settings(body.fields)
        asked = understood(Variation, said_in(body.fields))
        data = await picture_bytes(sources[0], options)
        first = await picture(data, options)
        revised = asked.prompt or await words_for(engine, data, client_of(request.scope))
        return await answer(request, order("generate", asked, settings, names, {"image": first}, revised))

    async def answer(request: Request, wanted: Order) -> Response:
        asked = wanted.asked
        stream, partial = bool(asked.stream), asked.partial_images or 0
        if partial and not stream:
            raise ApiError(400, f"partial_images is {partial}, which needs stream: set it.", "partial_images")
        said = {**wanted.settings, "seed": asked.seed}
        with spoken(wanted.names):
            job = engine.submit(
                wanted.task,
                said,
                wanted.images,
                1 if asked.n is None else asked.n,
                asked.model,
                client_of(request.scope),
                previews=partial,
            )
            ignored = [name for name in IGNORED if getattr(asked, name, None) is not None]
            headers = {"X-Eyesel-Job": job.id} | ({"X-Eyesel-Ignored": ", ".join(ignored)} if ignored else {})
            if stream:
                return StreamingResponse(events(job, wanted, request), media_type="text/event-stream", headers=headers)
            pictures = await engine.until_disconnected(request, job)
            data = [await datum(request, job, i, made, wanted) for i, made in enumerate(pictures)]
        return JSONResponse(
            {"created": int(time.time()), "data": data, **described_as(pictures[0], wanted)}, 200, headers
        )

    async def datum(request: Request, job: Job, number: int, made: Picture, wanted: Order) -> dict[str, Any]:
        told: dict[str, Any] = {"revised_prompt": wanted.revised, "seed": made.seed}
        if wanted.asked.response_format == "url":
            address = request.url_for("made_picture", name=f"{job.id}-{number}.{wanted.format}")
            return {**told, "url": str(address.include_query_params(compression=wanted.compression))}
        return {**told, "b64_json": await asyncio.to_thread(base64_of, made, wanted.format, wanted.compression)}

    @routes.get(
        "/v1/images/made/{name}",
        **described(
            "A finished picture, at the address of a `url` answer.", "-o made.png HOST/v1/images/made/JOB-0.png"
        ),
    )
    async def made_picture(name: str, compression: Annotated[int, Field(ge=0, le=100)] = 100) -> Response:
        stem, _, format = name.partition(".")
        id, _, number = stem.rpartition("-")
        job = engine.jobs.get(id)
        files = job.files if job is not None and job.state == "done" else []
        known = format in MEDIA_TYPES and re.fullmatch(r"\d{1,4}", number, re.ASCII) and int(number) < len(files)
        if job is None or not known or not files[int(number)].is_file():
            raise ApiError(404, f"There is no picture {name[:100]!r} any more.", "name", "no_picture")
        pictures = await job.result()
        data = await asyncio.to_thread(encoded, pictures[int(number)], format, compression)
        return Response(data, media_type=MEDIA_TYPES[format])

    def listed() -> list[dict[str, Any]]:
        cards = {card.id: card for card in engine.models.cards()}
        models = [model_entry(card.id, card.created, "eyesel") for card in cards.values()]
        painter = next((card for card in engine.models.cards() if card.kind == "painter"), None)
        aliases = [] if painter is None else [name for name in options.aliases if name not in cards]
        return models + [model_entry(name, painter.created, f"alias of {painter.id}") for name in aliases if painter]

    @routes.get("/v1/models", **described("The models, and names that stand for the first painter.", "HOST/v1/models"))
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": listed()})

    @routes.get("/v1/models/{id:path}", **described("One model.", "HOST/v1/models/tiny"))
    async def model(id: str) -> JSONResponse:
        found = next((each for each in listed() if each["id"] == id), None)
        if found is None:
            raise ApiError(404, f"The model {id[:200]!r} is not served here.", "model", "model_not_found")
        return JSONResponse(found)

    return routes
