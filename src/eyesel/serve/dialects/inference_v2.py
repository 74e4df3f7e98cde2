"""The Open Inference Protocol v2 (KServe, Triton, OVMS, Seldon) for the classifiers.

A classifier reads `pixel_values` (FP32, [B, channels, height, width], as its preprocessing gives them) or `image`
(BYTES, [B], files of pictures in base64), and gives `logits`, `probabilities` (FP32, [B, classes]) and `labels` (BYTES,
[B]: the best). Its only version is 1. Tensors are JSON; the binary extension is refused.
"""

import asyncio
import math
import secrets
from typing import Any, Literal

import torch
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from eyesel import __version__
from eyesel.classifier import ImageClassifier
from eyesel.serve.access import client_of
from eyesel.serve.dialects.described import described
from eyesel.serve.dialects.parameters import Said, Whole, understood
from eyesel.serve.engine import Engine
from eyesel.serve.errors import ApiError
from eyesel.serve.intake import pictures_bytes, read_body
from eyesel.serve.options import ServerOptions

VERSION = "1"
OUTPUTS = ("logits", "probabilities", "labels")
_FUNCTIONS = {"softmax": lambda logits: logits.softmax(-1), "sigmoid": torch.sigmoid, "none": lambda logits: logits}


class InputTensor(Said):
    name: Literal["pixel_values", "image"]
    shape: list[Whole]
    datatype: Literal["FP32", "BYTES"]
    data: list[Any]
    parameters: dict[str, Any] = Field(default_factory=dict)


class WantedOutput(Said):
    name: Literal["logits", "probabilities", "labels"]
    parameters: dict[str, Any] = Field(default_factory=dict)


class Inference(Said):
    id: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[WantedOutput] | None = None


def owns(path: str) -> bool:
    return path == "/v2" or path.startswith("/v2/")


def render(error: ApiError) -> Response:
    return JSONResponse({"error": error.message}, error.status)


def router(engine: Engine, options: ServerOptions) -> APIRouter:
    routes = APIRouter(tags=["Open Inference Protocol v2"])

    @routes.get("/v2", **described("What the server is.", "HOST/v2"))
    async def server() -> JSONResponse:
        return JSONResponse({"name": "eyesel", "version": __version__, "extensions": []})

    @routes.get("/v2/health/live", **described("The process lives.", "HOST/v2/health/live"))
    async def live() -> JSONResponse:
        return JSONResponse({"live": True})

    @routes.get("/v2/health/ready", **described("Models are loaded.", "HOST/v2/health/ready"))
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": engine.ready}, 200 if engine.ready else 503)

    def known(name: str, version: str | None) -> str:
        if version not in (None, VERSION):
            raise ApiError(404, f"The model {name!r:.100} has only version {VERSION}.", "version", "model_not_found")
        return engine.models.resolve(name, "classifier")

    # `:path`, since the names of models may have slashes; the longer routes come first
    for at in ("/v2/models/{name:path}/versions/{version}", "/v2/models/{name:path}"):

        @routes.get(f"{at}/ready", **described("A model can be asked.", "HOST/v2/models/tiny/ready"))
        async def model_ready(name: str, version: str | None = None) -> JSONResponse:
            return JSONResponse({"name": known(name, version), "ready": engine.ready}, 200 if engine.ready else 503)

        @routes.post(f"{at}/infer", **described("Classify.", _CURL, Inference))
        async def infer(request: Request, name: str, version: str | None = None) -> JSONResponse:
            id = known(name, version)
            if "inference-header-content-length" in request.headers:
                raise ApiError(400, "The binary extension is not spoken here: send tensors as JSON.", "inputs")
            asked = understood(Inference, (await read_body(request)).fields)
            _refuse_parameters(asked)
            eye = await engine.eye(id)
            logits = await _logits(engine, options, eye, id, asked.inputs[0], client_of(request.scope))
            wanted = OUTPUTS if asked.outputs is None else [output.name for output in asked.outputs]
            outputs = [_output(name, eye, logits) for name in wanted]
            told = {"model_name": id, "model_version": VERSION, "id": asked.id or secrets.token_hex(8)}
            return JSONResponse({**told, "outputs": outputs})

    for at in ("/v2/models/{name:path}/versions/{version}", "/v2/models/{name:path}"):

        @routes.get(at, **described("What a model reads and gives.", "HOST/v2/models/tiny"))
        async def model(name: str, version: str | None = None) -> JSONResponse:
            id = known(name, version)
            return JSONResponse(_metadata(id, await engine.eye(id)))

    return routes


_CURL = (
    """-H "Content-Type: application/json" -d '{"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", """
    """"data": ["'"$(base64 -w0 fox.png)"'"]}]}' HOST/v2/models/tiny/infer"""
)


def _metadata(id: str, eye: ImageClassifier) -> dict[str, Any]:
    config = eye.model.config
    return {
        "name": id,
        "versions": [VERSION],
        "platform": "eyesel",
        "inputs": [
            {"name": "pixel_values", "datatype": "FP32", "shape": [-1, config.channels, *config.image_size]},
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, config.classes]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, config.classes]},
            {"name": "labels", "datatype": "BYTES", "shape": [-1]},
        ],
    }


def _refuse_parameters(asked: Inference) -> None:
    """None of the protocol's extensions is spoken here, and none is dropped in silence."""
    parts: list[Any] = [asked, *asked.inputs, *(asked.outputs or [])]
    for part in parts:
        for name in part.parameters:
            raise ApiError(400, f"There is no parameter {name!r:.100} here.", f"parameters.{name:.100}")


async def _logits(
    engine: Engine, options: ServerOptions, eye: ImageClassifier, id: str, tensor: InputTensor, client: str
) -> torch.Tensor:
    """(B, classes) float32."""
    if tensor.name == "image":
        if tensor.datatype != "BYTES" or tensor.shape != [len(tensor.data)]:
            raise ApiError(
                400, f"image must be BYTES of the shape [{len(tensor.data)}], as many as there are.", "image"
            )
        images = await pictures_bytes(tensor.data, options)
        return await engine.infer(images, id, client)
    if tensor.datatype != "FP32":
        raise ApiError(400, f"pixel_values are {tensor.datatype}; they must be FP32.", "pixel_values")
    return await engine.infer(await asyncio.to_thread(_pixels, tensor, eye), id, client)


def _pixels(tensor: InputTensor, eye: ImageClassifier) -> torch.Tensor:
    """(B, channels, height, width); data may be flat or nested. Blocks."""
    expected = [eye.model.config.channels, *eye.model.config.image_size]
    if len(tensor.shape) != 4 or tensor.shape[1:] != expected or tensor.shape[0] < 1:
        raise ApiError(400, f"pixel_values have the shape {tensor.shape!s:.60}; it must be {[-1, *expected]}.", "shape")
    try:
        pixels = torch.tensor(tensor.data, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ApiError(400, "pixel_values hold something that is no tensor of numbers.", "data") from None
    if pixels.numel() != math.prod(tensor.shape):
        raise ApiError(400, f"pixel_values hold {pixels.numel()} numbers and not {math.prod(tensor.shape)}.", "data")
    if not pixels.isfinite().all():
        raise ApiError(400, "pixel_values hold numbers that are too large for FP32.", "data")
    return pixels.reshape(tensor.shape)


def _output(name: str, eye: ImageClassifier, logits: torch.Tensor) -> dict[str, Any]:
    if name == "labels":
        labels = [eye.labels[i] for i in logits.argmax(-1).tolist()]
        return {"name": name, "datatype": "BYTES", "shape": [len(labels)], "data": labels}
    values = logits if name == "logits" else _FUNCTIONS[eye.default_function](logits)
    return {"name": name, "datatype": "FP32", "shape": list(values.shape), "data": values.flatten().tolist()}
