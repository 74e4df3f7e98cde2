"""No request is read beyond the limit, nor for longer than it takes, whether it says its length or comes in chunks."""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eyesel.serve.dialects import rendered
from eyesel.serve.errors import ApiError
from eyesel.serve.options import Limits

PATIENCE = 30.0  # seconds for a body, and one more for each
SLOWEST = 10_000  # bytes of it


class BodyLimit:
    """Answers in the shape of the dialect: 413, 408 to who sends too slowly, 429 when all requests are too much."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._held = 0  # bytes of the requests that are being read or answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "")
        if told.isascii() and told.isdigit() and int(told) > self._limits.body:
            await rendered(self._too_large(), scope["path"])(scope, receive, send)
            return
        started, size, whole, begun = time.monotonic(), 0, False, False
        refusal: ApiError | None = None

        async def counted() -> Message:
            nonlocal size, whole, refusal
            if whole:  # what comes now is that the client goes away
                return await receive()
            try:
                left = PATIENCE + size / SLOWEST + started - time.monotonic()
                message = await asyncio.wait_for(receive(), max(left, 0))
            except TimeoutError:
                refusal = ApiError(408, f"The request came too slowly: {size:,} bytes of it.", None, "too_slow")
                raise refusal from None
            number = len(message.get("body", b""))
            size, self._held = size + number, self._held + number
            whole = not message.get("more_body", False)
            if size > self._limits.body:
                refusal = self._too_large()
            elif self._held > self._limits.bodies:
                refusal = ApiError(429, "The server reads as much as it can: come again.", None, "queue_full", 1)
            if refusal is not None:
                raise refusal
            return message

        async def noted(message: Message) -> None:
            nonlocal begun
            if refusal is not None and not begun:  # whatever the parser of the body made of the error
                return
            begun = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except ApiError:
            if refusal is None:
                raise
        finally:
            self._held -= size
        if refusal is not None and not begun:
            await rendered(refusal, scope["path"])(scope, receive, send)

    def _too_large(self) -> ApiError:
        most = self._limits.body
        return ApiError(413, f"The request has more than the {most:,} bytes that it may.", None, "body_too_large")
