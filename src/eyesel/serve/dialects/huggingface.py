"""Hugging Face's inference: what `InferenceClient` and the default container of Inference Endpoints speak.

    POST /  /predict  /models/{id}  /models/{id}/pipeline/{task}

A body is the bytes of a picture, a form, or JSON {"inputs": text or base64, "parameters": {...}}. The task is that in
the path, or in `?task=`, else it follows from what is sent: words are painted, a picture is painted over where one is
accepted (`Accept: image/png`) or a prompt is given, and classified otherwise.
"""

import asyncio
import base64
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import Field

from eyesel import __version__
from eyesel.serve.access import client_of
from eyesel.serve.dialects.described import described
from eyesel.serve.dialects.parameters import Said, Whole, spoken, take_settings, understood
from eyesel.serve.dialects.pictures import MEDIA_TYPES, encoded, words_for
from eyesel.serve.engine import Engine
from eyesel.serve.errors import ApiError
from eyesel.serve.intake import looks_like_picture, picture, picture_bytes, pictures_bytes, read_body
from eyesel.serve.jobs import Task
from eyesel.serve.options import ServerOptions

CLASSIFY, EMBED = "image-classification", "feature-extraction"
PAINT, REPAINT = "text-to-image", "image-to-image"
TASKS = (CLASSIFY, EMBED, PAINT, REPAINT)
_ALSO = {"image-feature-extraction": EMBED}
_ENVELOPE = ("inputs", "parameters", "options", "task", "image")
_ADDRESS = re.compile(r"(https?://|data:)", re.IGNORECASE)


class Classification(Said):
    top_k: Whole = 5
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None


class Extraction(Said):
    """`pool` and `layer` are eyesel's; of the client's own parameters only these mean something for pictures."""

    normalize: bool = False
    pool: Literal["cls", "mean", "none", "grid"] = "cls"
    layer: Whole = -1
    encoding_format: Literal["float"] | None = None


class Size(Said):
    width: Whole
    height: Whole


class TextToImage(Said):
    """And all settings, by eyesel's names or those of diffusers."""

    width: Whole | None = None
    height: Whole | None = None
    seed: Whole | None = None
    num_images_per_prompt: Literal[1] | None = None


class ImageToImage(Said):
    """And all settings, by eyesel's names or those of diffusers. White in `mask_image` is repainted."""

    prompt: str | None = None
    target_size: Size | None = None
    seed: Whole | None = None
    mask_image: str | None = None
    num_images_per_prompt: Literal[1] | None = None


class Envelope(Said):
    inputs: str | list[str]
    parameters: dict[str, Any] = Field(default_factory=dict, description="of the task")


@dataclass(frozen=True)
class Question:
    """A request, understood as far as the task; `inputs` are bytes or texts."""

    task: str
    inputs: list[Any]
    several: bool
    parameters: dict[str, Any]
    model: str | None


def owns(path: str) -> bool:
    return path in ("/", "/predict", "/info") or path.startswith("/models/")


def render(error: ApiError) -> Response:
    return JSONResponse({"error": error.message}, error.status)


def router(engine: Engine, options: ServerOptions) -> APIRouter:
    routes = APIRouter(tags=["Hugging Face"])
    curl = "--data-binary @fox.png HOST"

    if not options.web:  # whose page is there

        @routes.get("/", **described("The process lives.", "HOST/"))
        async def alive() -> PlainTextResponse:
            return PlainTextResponse("Ok")

    @routes.post("/", **described("Classify or paint, by what is sent.", f"{curl}/", Envelope, ("image",), True))
    @routes.post("/predict", **described("The same.", f"{curl}/predict", Envelope, ("image",), True))
    async def predict(request: Request) -> Response:
        return await answer(request, await question(request))

    @routes.post("/models/{id:path}/pipeline/{task}", **described(
        "One task of one model.", f"{curl}/models/tiny/pipeline/feature-extraction", Envelope, ("image",), True
    ))  # fmt: skip
    async def pipeline(request: Request, id: str, task: str) -> Response:
        return await answer(request, await question(request, id, task))

    @routes.post("/models/{id:path}", **described(
        "One model, by what is sent.", f"{curl}/models/tiny", Envelope, ("image",), True
    ))  # fmt: skip
    async def model(request: Request, id: str) -> Response:
        return await answer(request, await question(request, id))

    @routes.get("/info", **described("What is served, and its limits.", "HOST/info"))
    async def info() -> JSONResponse:
        models = [{"id": card.id, "kind": card.kind, "size": card.size} for card in engine.models.cards()]
        limits = options.limits
        told = {"max_batch_size": options.max_batch, "max_client_batch_size": limits.images, "max_steps": limits.steps}
        return JSONResponse({"name": "eyesel", "version": __version__, "tasks": TASKS, "models": models, **told})

    async def question(request: Request, model: str | None = None, task: str | None = None) -> Question:
        body = await read_body(request, "inputs")
        sent = body.files.pop("inputs", []) + body.files.pop("image", [])
        mask = body.files.pop("mask_image", [])
        for name in body.files:
            raise ApiError(400, f"There is no file {name[:100]!r} here.", name[:100], "unknown_parameter")
        if len(mask) > 1:
            raise ApiError(400, f"There are {len(mask)} pictures mask_image; give one.", "mask_image")
        if len([each for each in (sent, body.fields.get("inputs"), body.fields.get("image")) if each]) > 1:
            raise ApiError(400, "inputs are given in two ways: take one of them.", "inputs", "invalid_request")
        inputs = body.fields.get("inputs", body.fields.get("image"))
        several = isinstance(inputs, list) or len(sent) > 1
        given = sent + (inputs if isinstance(inputs, list) else [] if inputs is None else [inputs])
        if not given:
            raise ApiError(400, "inputs is missing: send a picture, or words to paint.", "inputs", "missing_parameter")
        parameters = body.fields.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ApiError(400, f"parameters is {parameters!r:.100}; it must be an object.", "parameters")
        root = {name: value for name, value in body.fields.items() if name not in _ENVELOPE}
        said = {name: value for name, value in {**root, **parameters}.items() if value is not None}
        if mask:
            said["mask_image"] = base64.b64encode(mask[0]).decode()
        declared = task or request.query_params.get("task") or body.fields.get("task")
        return Question(_task(declared, given, said, _accepted(request)), given, several, said, model)

    async def answer(request: Request, asked: Question) -> Response:
        client = client_of(request.scope)
        if asked.task == CLASSIFY:
            chosen = understood(Classification, asked.parameters)
            images = await pictures_bytes(asked.inputs, options, "inputs")
            found = await engine.classify(images, asked.model, chosen.top_k, chosen.function_to_apply, client)
            lists = [[asdict(prediction) for prediction in each] for each in found]
            return JSONResponse(lists if asked.several else lists[0])
        if asked.task == EMBED:
            wanted = understood(Extraction, asked.parameters)
            images = await pictures_bytes(asked.inputs, options, "inputs")
            vectors = await engine.embed(images, asked.model, wanted.pool, wanted.layer, wanted.normalize, client)
            return JSONResponse([vector.tolist() for vector in vectors])
        if len(asked.inputs) != 1:
            raise ApiError(400, f"There are {len(asked.inputs)} inputs; {asked.task} takes one.", "inputs")
        return await (painted if asked.task == PAINT else repainted)(request, asked, client)

    async def painted(request: Request, asked: Question, client: str) -> Response:
        said = dict(asked.parameters)
        settings, names = take_settings(said)
        chosen = understood(TextToImage, said)
        if (chosen.width is None) != (chosen.height is None):
            raise ApiError(400, "width and height belong together: give both.", "height" if chosen.width else "width")
        if not isinstance(asked.inputs[0], str):
            raise ApiError(400, "inputs is a picture; text-to-image takes words.", "inputs", "invalid_request")
        size = (chosen.width, chosen.height) if chosen.width is not None else None
        settings |= {"prompt": asked.inputs[0], "seed": chosen.seed} | ({"size": size} if size else {})
        return await carried_out(request, "generate", settings, names | {"prompt": "inputs"}, {}, asked.model, client)

    async def repainted(request: Request, asked: Question, client: str) -> Response:
        said = dict(asked.parameters)
        settings, names = take_settings(said)
        chosen = understood(ImageToImage, said)
        data = await picture_bytes(asked.inputs[0], options, "inputs")
        images: dict[str, Any] = {"image": await picture(data, options, "inputs", "RGBA")}
        if chosen.mask_image is not None:
            images["mask"] = await picture(chosen.mask_image, options, "mask_image")
        if chosen.target_size is not None:
            settings["size"], names["size"] = (chosen.target_size.width, chosen.target_size.height), "target_size"
        prompt = chosen.prompt or await words_for(engine, data, client, "inputs")
        settings |= {"prompt": prompt, "seed": chosen.seed}
        task: Task = "inpaint" if "mask" in images else "generate"
        return await carried_out(request, task, settings, names, images, asked.model, client)

    async def carried_out(
        request: Request,
        task: Task,
        settings: dict[str, Any],
        names: dict[str, str],
        images: dict[str, Any],
        model: str | None,
        client: str,
    ) -> Response:
        format = _accepted(request)
        with spoken(names):
            job = engine.submit(task, settings, images, 1, model, client)
            pictures = await engine.until_disconnected(request, job)
        data = await asyncio.to_thread(encoded, pictures[0], format or "png")
        headers = {"X-Eyesel-Seed": str(pictures[0].seed)}
        if format is None:
            return JSONResponse(base64.b64encode(data).decode(), headers=headers)
        return Response(data, media_type=MEDIA_TYPES[format], headers=headers)

    return routes


def _task(declared: Any, inputs: list[Any], parameters: dict[str, Any], accepted: str | None) -> str:
    if declared is not None:
        task = _ALSO.get(declared, declared) if isinstance(declared, str) else declared
        if task not in TASKS:
            raise ApiError(
                400, f"task is {declared!r:.100}; this server does {', '.join(TASKS)}.", "task", "invalid_request"
            )
        return str(task)
    if not all(_is_picture(each) for each in inputs):
        return PAINT
    return REPAINT if accepted or "prompt" in parameters else CLASSIFY


def _is_picture(sent: Any) -> bool:
    """Whether it is one, in base64 or at an address, and not words to paint."""
    if not isinstance(sent, str):
        return True
    if _ADDRESS.match(sent):
        return True
    try:
        return looks_like_picture(base64.b64decode(sent[:64], validate=True))
    except ValueError:
        return False


def _accepted(request: Request) -> str | None:
    """The format in which a picture is wanted as it is; None is JSON, the container's own default."""
    accept = request.headers.get("accept", "").lower()
    wanted = [part.split(";")[0].strip() for part in accept.split(",")]
    if "image/*" in wanted:
        return "png"
    return next((name for name, media_type in MEDIA_TYPES.items() if media_type in wanted), None)
