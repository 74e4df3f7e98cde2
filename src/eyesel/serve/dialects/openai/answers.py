"""Answers in the shapes of OpenAI's Images API: pictures, streams of events, models, errors."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from PIL import Image

from eyesel.picture import Picture
from eyesel.serve.dialects.openai.requests import Order
from eyesel.serve.dialects.pictures import base64_of
from eyesel.serve.engine import gone
from eyesel.serve.errors import ApiError
from eyesel.serve.jobs import Job

NO_TOKENS = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_body(error: ApiError) -> dict[str, Any]:
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def model_entry(id: str, created: int, owner: str) -> dict[str, Any]:
    return {"id": id, "object": "model", "created": created, "owned_by": owner}


def described_as(made: Picture, order: Order) -> dict[str, Any]:
    """What an answer says of its pictures, besides them."""
    return {
        "output_format": order.format,
        "size": f"{made.image.width}x{made.image.height}",
        "quality": order.asked.quality or "auto",
        "background": "opaque",
    }


async def events(job: Job, order: Order, request: Request) -> AsyncIterator[str]:
    """Server-sent events: previews in the making, then each finished picture; the job ends with the connection."""
    kind = "image_generation" if not order.images else "image_edit"
    leaving = asyncio.ensure_future(gone(request))
    leaving.add_done_callback(lambda _: job.cancel())
    shown = 0
    try:
        async for event in job.updates():
            for preview in event.previews:
                picture = await asyncio.to_thread(base64_of, preview, order.format, order.compression)
                yield _event(f"{kind}.partial_image", preview, picture, order, {"partial_image_index": shown})
                shown += 1
        for made in await job.result():
            picture = await asyncio.to_thread(base64_of, made, order.format, order.compression)
            yield _event(f"{kind}.completed", made.image, picture, order, {"usage": NO_TOKENS, "seed": made.seed})
    except ApiError as error:
        yield f"event: error\ndata: {json.dumps(error_body(error))}\n\n"
    finally:
        leaving.cancel()


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
