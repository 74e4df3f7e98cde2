"""One line of JSON for each request: its id, what was asked, how it ended, how long it took. Never what a prompt says,
unless that is asked for.
"""

import json
import logging
import re
import secrets
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eyesel.serve.access import client_of
from eyesel.serve.dialects import rendered
from eyesel.serve.errors import ApiError
from eyesel.serve.metrics import Metrics

log = logging.getLogger("eyesel.serve")
_PLAIN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
GONE = 499  # for whoever went away before the request was there, as nginx has it
_ID = re.compile(r"[\w.:-]{1,64}")


class JsonLines(logging.Formatter):
    """The message and everything in `extra`, one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _PLAIN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class RequestLog:
    """Gives each request an id, `X-Request-ID` (the client's own, if that is a plain word), counts and logs it.

    An error that nothing caught is answered with a 500 in the shape of the dialect.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = id
        started, status = time.monotonic(), 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = id
            await send(message)

        try:
            await self._app(scope, receive, named)
        except ClientDisconnect:
            status = status or GONE
        except Exception as error:
            log.exception("a request failed", exc_info=error, extra={"request_id": id})
            if not status:
                problem = ApiError(500, "Something unexpected went wrong; the log says what.", None, "internal")
                await rendered(problem, scope["path"])(scope, receive, named)
        finally:
            seconds = time.monotonic() - started
            route = getattr(scope.get("route"), "path", "unknown")
            self._metrics.answered(scope["method"], route, status, seconds)
            line = {
                "request_id": id,
                "client": client_of(scope),
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": round(1000 * seconds, 1),
            }
            log.info("request", extra=line)
