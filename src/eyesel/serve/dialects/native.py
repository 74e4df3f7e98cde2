"""eyesel's own dialect: jobs for what is painted, and answers at once for what is understood."""

import asyncio
import base64
import io
import json
import re
from collections.abc import AsyncIterator
from dataclasses import asdict, fields
from functools import cache
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from PIL import Image

from eyesel.picture import Picture
from eyesel.serve.access import client_of
from eyesel.serve.dialects.documented import documented
from eyesel.serve.engine import Engine
from eyesel.serve.errors import ApiError
from eyesel.serve.intake import Body, check_number, picture, pictures_bytes, read_body, strict_json
from eyesel.serve.jobs import Job, JobEvent
from eyesel.serve.options import ServerOptions
from eyesel.settings import Settings
from eyesel.stylize import StyleSettings

QUIET = 15.0  # seconds after which a stream of events says that it is alive
TASKS = ("generate", "inpaint", "stylize")
PRIORITIES = range(-10, 11)
_IMAGES = ("image", "mask", "style")
_TEXTS = ("prompt", "task", "model", "pool", "method", "target", "function_to_apply", "fusion")


def owns(path: str) -> bool:
    return True


def render(error: ApiError) -> Response:
    told = {"message": error.message, "param": error.param, "code": error.code}
    return JSONResponse({"error": told}, error.status)


def router(engine: Engine, options: ServerOptions) -> APIRouter:
    routes = APIRouter()

    async def images_of(body: Body) -> list[Image.Image | bytes]:
        """Those of `image`, which the engine decodes."""
        given = body.files.pop("image", []) + _listed(body.fields.pop("image", []))
        _refuse_files(body)
        if not given:
            raise ApiError(422, "There is no picture: send it as `image`.", "image", "missing_parameter")
        return list(await pictures_bytes(given, options))

    @routes.post("/jobs", status_code=202, **documented("submit"))
    async def submit(request: Request) -> JSONResponse:
        body = await read_body(request)
        said, images = await _order(body, options)
        task = said.pop("task", "stylize" if "style" in images else "inpaint" if "mask" in images else "generate")
        if task not in TASKS:
            raise ApiError(422, f"task is {task!r:.100}; choose one of {', '.join(TASKS)}.", "task", "invalid_request")
        n, model, priority = said.pop("n", 1), said.pop("model", None), said.pop("priority", 0)
        if type(priority) is not int or priority not in PRIORITIES:
            raise ApiError(400, f"priority is {priority!r:.100}; it must be a whole number from -10 to 10.", "priority")
        job = engine.submit(task, said, images, n, _text(model, "model"), client_of(request.scope), priority)
        await engine.recorded(job)
        return JSONResponse(describe(job), 202, {"Location": f"/jobs/{job.id}"})

    @routes.get("/jobs", **documented("jobs"))
    async def listed(request: Request) -> JSONResponse:
        _refuse(dict(request.query_params))
        return JSONResponse({"jobs": [describe(job) for job in engine.jobs.list(client_of(request.scope))]})

    def found(id: str) -> Job:
        job = engine.jobs.get(id)
        if job is None:
            raise ApiError(404, f"There is no job {id[:64]!r}.", "id", "job_not_found")
        return job

    def here(id: str) -> Job:
        """One that has ended, or that this server is at: of several that share a folder, only one can stop a job."""
        job = found(id)
        if not job.ended and job.desk is None:
            raise ApiError(503, "The job is at another server: ask again.", "id", "elsewhere", 1)
        return job

    @routes.get("/jobs/{id}", **documented("job"))
    async def one(request: Request, id: str) -> JSONResponse:
        _refuse(dict(request.query_params))
        return JSONResponse(describe(found(id)))

    @routes.get("/jobs/{id}/events", **documented("events"))
    async def events(request: Request, id: str, previews: bool = True) -> Response:
        _refuse({name: value for name, value in request.query_params.items() if name != "previews"})
        return StreamingResponse(_events(here(id), previews), media_type="text/event-stream")

    @routes.delete("/jobs/{id}", **documented("cancel"))
    async def cancel(request: Request, id: str) -> JSONResponse:
        _refuse(dict(request.query_params))
        job = here(id)
        job.cancel()
        return JSONResponse(describe(job))

    @routes.get("/jobs/{id}/pictures/{number}", **documented("picture"))
    async def made(id: str, number: int) -> Response:
        job = found(id)
        if job.state != "done" or not 0 <= number < len(job.files):
            raise ApiError(404, f"The job is {job.state} and has no picture {number}.", "number", "no_picture")
        if not job.files[number].is_file():
            raise ApiError(404, f"The picture {number} of the job has been removed.", "number", "no_picture")
        return FileResponse(job.files[number], media_type="image/png")

    @routes.post("/classify", **documented("classify"))
    async def classify(request: Request) -> JSONResponse:
        body = await read_body(request)
        images, said = await images_of(body), _typed(body)
        top_k = _whole(said.pop("top_k", 5), "top_k")
        function = _text(said.pop("function_to_apply", None), "function_to_apply")
        model = engine.models.resolve(_text(said.pop("model", None), "model"), "classifier")
        _refuse(said)
        answers = await engine.classify(images, model, top_k, function, client_of(request.scope))
        return JSONResponse({"model": model, "predictions": [[asdict(p) for p in answer] for answer in answers]})

    @routes.post("/embed", **documented("embed"))
    async def embed(request: Request) -> JSONResponse:
        body = await read_body(request)
        images, said = await images_of(body), _typed(body)
        layer = said.pop("layer", -1)
        layers = [_whole(each, "layer") for each in layer] if isinstance(layer, list) else _whole(layer, "layer")
        pool, normalize = _text(said.pop("pool", "cls"), "pool"), said.pop("normalize", False)
        if not isinstance(normalize, bool):
            raise ApiError(400, f"normalize is {normalize!r:.100}; it must be true or false.", "normalize")
        model = engine.models.resolve(_text(said.pop("model", None), "model"), "classifier")
        _refuse(said)
        vectors = await engine.embed(images, model, pool, layers, normalize, client_of(request.scope))
        shape = [len(vectors), *vectors[0].shape]
        return JSONResponse({"model": model, "shape": shape, "embeddings": [each.tolist() for each in vectors]})

    @routes.post("/attend", **documented("attend"))
    async def attend(request: Request) -> Response:
        body = await read_body(request)
        images, said = await images_of(body), _typed(body)
        if len(images) != 1:
            raise ApiError(400, f"There are {len(images)} pictures; one is looked at at a time.", "image")
        model = engine.models.resolve(_text(said.pop("model", None), "model"), "classifier")
        opacity = said.pop("opacity", None)
        if opacity is not None and not (type(opacity) in (int, float) and 0 <= opacity <= 1):
            raise ApiError(400, f"opacity is {opacity!r:.100}; it must lie between 0 and 1.", "opacity")
        look = await engine.attend(images[0], model, **_attention(said))
        overlay = await asyncio.to_thread(lambda: png(look.overlay(opacity)))
        if "image/png" in request.headers.get("accept", ""):
            return Response(overlay, media_type="image/png")
        told = {"model": model, "method": look.method, "target": look.target, "shape": list(look.heat.shape)}
        return JSONResponse({**told, "heat": look.heat.tolist(), "overlay": base64.b64encode(overlay).decode()})

    return routes


def describe(job: Job) -> dict[str, Any]:
    """A job as JSON."""
    error = job.error
    made = len(job.files) if job.state == "done" else 0
    return {
        "id": job.id,
        "task": job.task,
        "state": job.state,
        "position": job.position,
        "progress": round(job.progress, 4),
        "step": job.step,
        "steps": job.steps,
        "model": job.model,
        "n": job.n,
        "seeds": job.seeds,
        "settings": job.settings,
        "created": job.created,
        "started": job.started,
        "finished": job.finished if job.ended else None,
        "pictures": [{"url": f"/jobs/{job.id}/pictures/{i}", "seed": job.seeds[i]} for i in range(made)],
        "error": error and {"message": error.message, "param": error.param, "code": error.code},
    }


def png(picture: Picture | Image.Image) -> bytes:
    """The bytes of a file; blocks a little."""
    image = picture.image if isinstance(picture, Picture) else picture
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


async def _events(job: Job, previews: bool) -> AsyncIterator[str]:
    """Server-sent events: each change of the job, named by its state; a comment where nothing happens for long."""
    updates = job.updates(previews).__aiter__()
    waiting: asyncio.Future[JobEvent] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(updates.__anext__())
            done, _ = await asyncio.wait({waiting}, timeout=QUIET)
            if not done:
                yield ": still here\n\n"
                continue
            try:
                event = waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
            told = describe(job) | {"state": event.state, "position": event.position}
            if event.preview is not None and previews:
                told["preview"] = base64.b64encode(await asyncio.to_thread(png, event.preview)).decode()
            yield f"event: {event.state}\ndata: {json.dumps(told)}\n\n"
    finally:
        if waiting is not None:
            waiting.cancel()


async def _order(body: Body, options: ServerOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of a job, and its pictures."""
    images: dict[str, Any] = {}
    for name in _IMAGES:
        given = body.files.pop(name, []) + _listed(body.fields.pop(name, []))
        if len(given) > 1 and name != "style":
            raise ApiError(400, f"There are {len(given)} pictures {name!r}; one is taken.", name, "invalid_request")
        if name == "mask" and given == ["alpha"]:
            images[name] = "alpha"
        elif given:
            check_number(len(given), options, name)
            opened = [await picture(each, options, name, "RGB" if name == "style" else "RGBA") for each in given]
            images[name] = opened if len(opened) > 1 else opened[0]
    _refuse_files(body)
    return _typed(body), images


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _refuse_files(body: Body) -> None:
    for name in body.files:
        raise ApiError(422, f"There is no picture {name[:100]!r}: choose image.", name[:100], "unknown_parameter")


@cache
def _text_names() -> frozenset[str]:
    """The parameters that are texts, and nothing but texts."""
    kinds = [field for kind in (Settings, StyleSettings) for field in fields(kind)]
    return frozenset({field.name for field in kinds if field.type in (str, str | None)} | {*_TEXTS})


def _typed(body: Body) -> dict[str, Any]:
    """The parameters; the texts of forms and addresses become what they stand for."""
    if not body.texts:
        return {name: value for name, value in body.fields.items() if value is not None}
    return {name: _value(name, text) for name, text in body.fields.items() if text != ""}


def _value(name: str, text: Any) -> Any:
    if isinstance(text, list):
        return [_value(name, each) for each in text]
    if name in _text_names() or not isinstance(text, str):
        return text
    if name == "size" and (sides := re.fullmatch(r"(\d{1,6})x(\d{1,6})", text.lower(), re.ASCII)):
        return [int(side) for side in sides.groups()]
    for attempt in (text, text.lower(), f"[{text}]"):
        try:
            return strict_json(attempt)
        except (ValueError, RecursionError):
            continue
    return text


def _whole(value: Any, name: str) -> int:
    if type(value) is not int or abs(value) > 10**6:
        raise ApiError(400, f"{name} is {value!r:.100}; it must be a whole number.", name, "invalid_request")
    return value


def _text(value: Any, name: str) -> Any:
    if value is not None and not isinstance(value, str):
        raise ApiError(400, f"{name} is {value!r:.100}; it must be a text.", name, "invalid_request")
    return value


def _refuse(said: dict[str, Any]) -> None:
    for name in said:
        raise ApiError(422, f"There is no parameter {name[:100]!r} here.", name[:100], "unknown_parameter")


_ATTENTION = {
    "method": str,
    "layer": (int, str),
    "head": (int, str),
    "fusion": str,
    "discard_ratio": (int, float),
    "target": (int, str),
    "mask_outliers": bool,
    "outlier_ratio": (int, float),
}


def _attention(said: dict[str, Any]) -> dict[str, Any]:
    for name, value in said.items():
        if name not in _ATTENTION:
            _refuse({name: value})
        if not isinstance(value, _ATTENTION[name]) or (isinstance(value, bool) and name != "mask_outliers"):  # type: ignore[arg-type]
            raise ApiError(400, f"{name} is {value!r:.100}, which it cannot be.", name, "invalid_request")
    return said
