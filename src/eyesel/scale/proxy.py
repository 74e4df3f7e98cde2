"""What stands before the replicas, in Ray's HTTP proxies: no request is lost with a replica, and jobs find theirs.

Proxies load it by the environment variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, which has to be that of the
processes of Ray: `eyesel serve --ray` and the files in `deploy/` set it.
"""

import asyncio
import re

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CALLBACK = "eyesel.scale.proxy:middlewares"
HEADER = b"x-session-id"  # by which Ray tells a request router what belongs together
KEPT = 128 * 2**20  # bytes of a request, beyond which it is sent once
ATTEMPTS = 6
PAUSE = 0.2  # seconds, twice as long after every attempt

_JOB = re.compile(r"/([a-z0-9]{4,16})-[0-9a-f]{24}(?:/|$)")


def middlewares() -> list[Middleware]:
    return [Middleware(Steadfast)]


def server_of(path: str) -> str | None:
    """The replica that a path's job is at, by its id; see `eyesel.serve.jobs.new_id`."""
    found = _JOB.search(path)
    return found[1] if found else None


class Steadfast:
    """Asks again where a replica died before it began to answer.

    Ray's proxy then ends without a word, and what is lost is the work on one request, whose body is still here. A
    replica that answers, with a failure or not, is never asked twice; an answer that breaks off cannot be taken back.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if server := server_of(scope["path"]):
            others = [(name, value) for name, value in scope["headers"] if name != HEADER]
            scope = {**scope, "headers": [*others, (HEADER, server.encode())]}
        request, begun = _Request(receive), False

        async def answer(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        for attempt in range(ATTEMPTS):
            await self._app(dict(scope), request.again(), answer)
            if begun or request.closed or not request.whole:
                return
            await asyncio.sleep(PAUSE * 2**attempt)


class _Request:
    """What a client sends, kept so that it can be read once more."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._kept, self._size = receive, list[Message](), 0
        self.whole, self.closed = True, False

    def again(self) -> Receive:
        """It from its beginning; for one reader at a time."""
        left = iter(tuple(self._kept))

        async def read() -> Message:
            for message in left:
                return message
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.closed = True
                return message
            self._size += len(message.get("body", b""))
            self.whole = self._size <= KEPT
            self._kept = [*self._kept, message] if self.whole else []
            return message

        return read
