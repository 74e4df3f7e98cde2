"""OpenAI's Images API: `/v1/images/generations`, `edits`, `variations` and `/v1/models`, as forms or JSON.

Beyond it, at the top level (`extra_body` of OpenAI's client): `seed`, and all settings of eyesel by their own names or
those of diffusers. What OpenAI documents and nothing here can do is refused; what only informs OpenAI is accepted, and
named in the header `X-Eyesel-Ignored`.
"""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image
from pydantic import Field

from eyesel.images import fitted
from eyesel.picture import Picture
from eyesel.serve.access import client_of
from eyesel.serve.dialects.described import described
from eyesel.serve.dialects.parameters import Said, Whole, size_of, spoken, take_settings, understood
from eyesel.serve.dialects.pictures import MEDIA_TYPES, base64_of, encoded, words_for
from eyesel.serve.engine import Engine
from eyesel.serve.errors import ApiError
from eyesel.serve.intake import Body, picture, picture_bytes, read_body
from eyesel.serve.jobs import Job, Task
from eyesel.serve.options import ServerOptions
from eyesel.settings import Settings
from eyesel.stylize import StyleSettings

QUALITY_STEPS = {"low": 12, "high": 50, "hd": 50}  # medium, standard and auto: the checkpoint's own number
FOX = "a large fox on a blue background"
_PAINT = f"""-H "Content-Type: application/json" -d '{{"prompt": "{FOX}"}}' HOST/v1/images/generations"""
MOST_PICTURES = 16  # of an edit, as at OpenAI
IGNORED = ("user", "moderation", "style", "input_fidelity")
NO_TOKENS = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

Quality = Literal["standard", "hd", "low", "medium", "high", "auto"]
Format = Literal["png", "jpeg", "webp"]


class Asked(Said):
    """What the three routes have in common, with OpenAI's meanings."""

    model: str | None = None
    n: Whole | None = Field(None, description="how many pictures, 1 by default")
    size: str | None = Field(None, description="WIDTHxHEIGHT, multiples of 8, or auto")
    quality: Quality | None = Field(None, description="low is 12 steps, high and hd 50, all else the checkpoint's own")
    response_format: Literal["url", "b64_json"] | None = Field(None, description="b64_json by default")
    output_format: Format | None = None
    output_compression: Annotated[Whole, Field(ge=0, le=100)] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    stream: bool | None = None
    partial_images: Annotated[Whole, Field(ge=0, le=3)] | None = None
    seed: Annotated[Whole, Field(ge=0, lt=2**64)] | None = None
    user: str | None = None
    moderation: Literal["low", "auto"] | None = None


class Generation(Asked):
    prompt: str
    style: Literal["vivid", "natural"] | None = None


class Edit(Asked):
    prompt: str
    input_fidelity: Literal["high", "low"] | None = None


class Variation(Asked):
    prompt: str | None = Field(None, description="beyond OpenAI; else the picture's own, or what is seen in it")


@dataclass(frozen=True)
class Order:
    """A request, understood: what the engine is asked for, and how the answer is to look."""

    task: Task
    asked: Asked
    settings: dict[str, Any]
    names: dict[str, str]
    images: dict[str, Any]
    revised: str | None = None

    @property
    def format(self) -> str:
        return self.asked.output_format or "png"

    @property
    def compression(self) -> int:
        return 100 if self.asked.output_compression is None else self.asked.output_compression


def owns(path: str) -> bool:
    return path.startswith("/v1/")


def render(error: ApiError) -> Response:
    # what has failed for a reason would fail again: OpenAI's client tries a 5xx three times
    headers = {"x-should-retry": "false"} if error.status == 500 else {}
    return JSONResponse(_told(error), error.status, headers)


def router(engine: Engine, options: ServerOptions) -> APIRouter:
    routes = APIRouter(tags=["OpenAI"])

    @routes.post("/v1/images/generations", **described("Paint from words.", _PAINT, Generation))
    async def generations(request: Request) -> Response:
        body = await read_body(request)
        _refuse_files(body)
        settings, names = take_settings(body.fields)
        asked = understood(Generation, _set(body.fields))
        _check_prompt(asked.prompt)
        return await answer(request, _order("generate", asked, settings, names, {}))

    @routes.post("/v1/images/edits", **described(
        "Edit a picture: repaint it, or where the mask is transparent; with more pictures, in their style.",
        f"-F image=@FOX -F prompt='{FOX}' -F steps=4 HOST/v1/images/edits", Edit, ("image", "mask"),
    ))  # fmt: skip
    async def edits(request: Request) -> Response:
        body = await read_body(request)
        sources, masks = _taken(body, "image", "images"), _taken(body, "mask")
        _refuse_files(body)
        if not 1 <= len(sources) <= MOST_PICTURES:
            raise ApiError(400, f"There are {len(sources)} pictures; give from 1 to 16.", "image", "invalid_request")
        if len(masks) > 1:
            raise ApiError(400, f"There are {len(masks)} masks; there is one for the first picture.", "mask")
        several = len(sources) > 1
        settings, names = take_settings(body.fields, StyleSettings if several else Settings)
        asked = understood(Edit, _set(body.fields))
        _check_prompt(asked.prompt)
        first = await picture(sources[0], options, "image", "RGBA")
        mask = _repainted(await picture(masks[0], options, "mask", "RGBA") if masks else first, bool(masks))
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
                request, _order("generate" if mask is None else "inpaint", asked, settings, names, images)
            )
        styles = [await picture(source, options, "image") for source in sources[1:]]
        size = size_of(asked.size)
        if size is not None:
            first, mask = fitted(first, size, "crop"), mask and fitted(mask, size, "crop", Image.Resampling.NEAREST)
        return await answer(
            request, _order("stylize", asked, settings, names, {"image": first, "mask": mask, "style": styles})
        )

    @routes.post("/v1/images/variations", **described(
        "Paint a picture anew.", "-F image=@FOX -F steps=4 HOST/v1/images/variations", Variation, ("image",),
    ))  # fmt: skip
    async def variations(request: Request) -> Response:
        body = await read_body(request)
        sources = _taken(body, "image")
        _refuse_files(body)
        if len(sources) != 1:
            raise ApiError(400, f"There are {len(sources)} pictures; give one.", "image", "invalid_request")
        settings, names = take_settings(body.fields)
        asked = understood(Variation, _set(body.fields))
        data = await picture_bytes(sources[0], options)
        first = await picture(data, options)
        revised = asked.prompt or await words_for(engine, data, client_of(request.scope))
        return await answer(request, _order("generate", asked, settings, names, {"image": first}, revised))

    async def answer(request: Request, order: Order) -> Response:
        asked = order.asked
        stream, partial = bool(asked.stream), asked.partial_images or 0
        if partial and not stream:
            raise ApiError(400, f"partial_images is {partial}, which needs stream: set it.", "partial_images")
        said = {**order.settings, "seed": asked.seed}
        with spoken(order.names):
            job = engine.submit(
                order.task,
                said,
                order.images,
                1 if asked.n is None else asked.n,
                asked.model,
                client_of(request.scope),
                previews=partial,
            )
            ignored = [name for name in IGNORED if getattr(asked, name, None) is not None]
            headers = {"X-Eyesel-Job": job.id} | ({"X-Eyesel-Ignored": ", ".join(ignored)} if ignored else {})
            if stream:
                return StreamingResponse(_events(job, order), media_type="text/event-stream", headers=headers)
            pictures = await engine.until_disconnected(request, job)
            data = [await datum(request, job, i, made, order) for i, made in enumerate(pictures)]
        return JSONResponse({"created": int(time.time()), "data": data, **_described(pictures[0], order)}, 200, headers)

    async def datum(request: Request, job: Job, number: int, made: Picture, order: Order) -> dict[str, Any]:
        told: dict[str, Any] = {"revised_prompt": order.revised, "seed": made.seed}
        if order.asked.response_format == "url":
            address = request.url_for("made_picture", name=f"{job.id}-{number}.{order.format}")
            return {**told, "url": str(address.include_query_params(compression=order.compression))}
        return {**told, "b64_json": await anyio.to_thread.run_sync(base64_of, made, order.format, order.compression)}

    @routes.get(
        "/v1/images/made/{name}",
        **described("A finished picture, at the address of a `url` answer.", "-o fox.png HOST/v1/images/made/NAME.png"),
    )
    async def made_picture(name: str, compression: Annotated[int, Field(ge=0, le=100)] = 100) -> Response:
        stem, _, format = name.partition(".")
        id, _, number = stem.partition("-")
        job = engine.jobs.get(id)
        known = job is not None and format in MEDIA_TYPES and number.isascii() and number.isdecimal()
        if job is None or not known or job.state != "done" or int(number) >= job.n:
            raise ApiError(404, f"There is no picture {name[:100]!r} any more.", "name", "no_picture")
        pictures = await job.result()
        data = await anyio.to_thread.run_sync(encoded, pictures[int(number)], format, compression)
        return Response(data, media_type=MEDIA_TYPES[format])

    def listed() -> list[dict[str, Any]]:
        cards = {card.id: card for card in engine.models.cards()}
        models = [_model(card.id, card.created, "eyesel") for card in cards.values()]
        painter = next((card for card in engine.models.cards() if card.kind == "painter"), None)
        aliases = [] if painter is None else [name for name in options.aliases if name not in cards]
        return models + [_model(name, painter.created, f"alias of {painter.id}") for name in aliases if painter]

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


def _told(error: ApiError) -> dict[str, Any]:
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def _model(id: str, created: int, owner: str) -> dict[str, Any]:
    return {"id": id, "object": "model", "created": created, "owned_by": owner}


def _set(said: dict[str, Any]) -> dict[str, Any]:
    """Without what is null, or an empty text of a form."""
    return {name: value for name, value in said.items() if value is not None and (value != "" or name == "prompt")}


def _check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise ApiError(400, "prompt is empty: say what to paint.", "prompt", "missing_parameter")


def _taken(body: Body, *names: str) -> list[Any]:
    """The pictures of a field: files, texts in base64, or as OpenAI's JSON has them, {"image_url": text}."""
    found: list[Any] = []
    for name in names:
        value = body.fields.pop(name, None)
        found += body.files.pop(name, [])
        found += value if isinstance(value, list) else [] if value is None else [value]
    return [each["image_url"] if isinstance(each, dict) and set(each) == {"image_url"} else each for each in found]


def _refuse_files(body: Body) -> None:
    for name in body.files:
        raise ApiError(400, f"There is no file {name[:100]!r} here.", name[:100], "unknown_parameter")


def _repainted(image: Image.Image, is_mask: bool) -> Image.Image | None:
    """White where a picture (RGBA) is fully transparent, which is where OpenAI's masks say to edit."""
    mask = image.getchannel("A").point(lambda alpha: 255 if alpha == 0 else 0)
    if mask.getbbox() is not None:
        return mask
    if is_mask:
        raise ApiError(
            400, "mask has no fully transparent pixel, which is where the picture is edited.", "mask", "invalid_request"
        )
    return None


def _order(
    task: Task,
    asked: Asked,
    settings: dict[str, Any],
    names: dict[str, str],
    images: dict[str, Any],
    revised: str | None = None,
) -> Order:
    if asked.background == "transparent":
        raise ApiError(400, "background is transparent, and what is painted here is opaque.", "background")
    if asked.output_compression is not None and asked.output_format in (None, "png") and asked.output_compression < 100:
        raise ApiError(
            400, "output_compression is for jpeg and webp: choose one as output_format.", "output_compression"
        )
    if asked.stream and asked.response_format == "url":
        raise ApiError(400, "response_format is url, and a stream has its pictures in it.", "response_format")
    settings, names = dict(settings), dict(names)
    steps = QUALITY_STEPS.get(asked.quality or "auto")
    if steps is not None:
        if "steps" in settings:
            raise ApiError(
                400, f"quality is {asked.quality}, which is {steps} steps: leave out it or {names['steps']}.", "quality"
            )
        settings["steps"], names["steps"] = steps, "quality"
    size = size_of(asked.size)
    if size is not None and task != "stylize":
        if "size" in settings:
            raise ApiError(400, "size is said twice.", "size")
        settings["size"] = size
        if images:
            settings.setdefault("resize", "crop")
    settings["prompt"] = revised or getattr(asked, "prompt", None)
    return Order(task, asked, settings, names, images, revised)


def _described(made: Picture, order: Order) -> dict[str, Any]:
    """What an answer says of its pictures, besides them."""
    return {
        "output_format": order.format,
        "size": f"{made.image.width}x{made.image.height}",
        "quality": order.asked.quality or "auto",
        "background": "opaque",
    }


async def _events(job: Job, order: Order) -> AsyncIterator[str]:
    """Server-sent events: previews in the making, then each finished picture; the job ends with the connection."""
    kind = "image_generation" if not order.images else "image_edit"
    shown = 0
    try:
        async for event in job.updates():
            for preview in event.previews:
                picture = await anyio.to_thread.run_sync(base64_of, preview, order.format, order.compression)
                yield _event(f"{kind}.partial_image", preview, picture, order, {"partial_image_index": shown})
                shown += 1
        for made in await job.result():
            picture = await anyio.to_thread.run_sync(base64_of, made, order.format, order.compression)
            yield _event(f"{kind}.completed", made.image, picture, order, {"usage": NO_TOKENS, "seed": made.seed})
    except ApiError as error:
        yield f"event: error\ndata: {json.dumps(_told(error))}\n\n"
    finally:
        job.cancel()


def _event(kind: str, image: Image.Image, picture: str, order: Order, more: dict[str, Any]) -> str:
    told = {
        "type": kind,
        "b64_json": picture,
        "created_at": int(time.time()),
        "output_format": order.format,
        "size": f"{image.width}x{image.height}",
        "quality": order.asked.quality or "auto",
        "background": "opaque",
        **more,
    }
    return f"event: {kind}\ndata: {json.dumps(told)}\n\n"
