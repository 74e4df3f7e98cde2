"""No request is read beyond the limit, whether it says its length or comes in chunks."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eyesel.serve.dialects import rendered
from eyesel.serve.errors import ApiError


class BodyLimit:
    """Answers with 413 in the shape of the dialect."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "")
        if told.isascii() and told.isdigit() and int(told) > self._most:
            await rendered(self._error(), scope["path"])(scope, receive, send)
            return
        size, over, begun = 0, False, False

        async def counted() -> Message:
            nonlocal size, over
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most:
                over = True
                raise self._error()
            return message

        async def noted(message: Message) -> None:
            nonlocal begun
            if over and not begun:  # whatever the parser of the body made of the error
                return
            begun = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except ApiError:
            if not over:
                raise
        if over and not begun:
            await rendered(self._error(), scope["path"])(scope, receive, send)

    def _error(self) -> ApiError:
        return ApiError(413, f"The request has more than the {self._most:,} bytes that it may.", None, "body_too_large")
