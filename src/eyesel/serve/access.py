"""Who may ask, and how often."""

import base64
import binascii
import contextlib
import hashlib
import hmac
import time
from collections import OrderedDict

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from eyesel.serve.dialects import rendered
from eyesel.serve.errors import ApiError
from eyesel.serve.options import ServerOptions

OPEN = frozenset({"/health", "/ready", "/v2/health/live", "/v2/health/ready"})  # what balancers ask, without a key
# Of the pages, a hundred at a time: they do not count in the rate
PARTS = ("/assets/", "/static/", "/static-offline-docs/", "/gradio_api/file=")
_MOST_CLIENTS = 10_000  # whose rates are remembered


def given_keys(headers: Headers) -> list[str]:
    """What a request may mean as its key: a Bearer token, X-API-Key, Basic's password, or its `user:password`."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    given = [headers["x-api-key"]] if "x-api-key" in headers else []
    if kind.lower() == "bearer":
        given.append(value.strip())
    if kind.lower() == "basic":
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            pair = base64.b64decode(value, validate=True).decode()
            given += [pair.partition(":")[2], pair]
    return given


def is_key(given: list[str], keys: tuple[str, ...]) -> bool:
    """Whether one is right, in a time that does not tell which characters are."""
    matches = [hmac.compare_digest(_digest(each), _digest(key)) for key in keys for each in given]
    return any(matches)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def client_of(scope: Scope) -> str:
    """A name for who asks, by its key and address, that gives neither away."""
    peer = scope.get("client") or ("",)
    keys = "\0".join(given_keys(Headers(scope=scope)))
    return hashlib.sha256(f"{peer[0]}\0{keys}".encode("utf-8", "surrogatepass")).hexdigest()[:12]


class Access:
    """Requests without a right key are answered with 401, those that come too fast with 429."""

    def __init__(self, app: ASGIApp, options: ServerOptions) -> None:
        self._app, self._keys, self._rate = app, options.api_keys, options.limits.rate
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # of each client: requests, and since when

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        error = self._refusal(scope)
        if error is not None:
            await rendered(error, scope["path"])(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        if self._keys and scope["method"] != "OPTIONS" and not is_key(given_keys(Headers(scope=scope)), self._keys):
            return ApiError(
                401, "The API key is missing or wrong: send it as Authorization: Bearer KEY.", None, "invalid_api_key"
            )
        if self._rate is None or scope["path"].startswith(PARTS):
            return None
        client, now = client_of(scope), time.monotonic()
        left, since = self._left.pop(client, (float(self._rate), now))
        left = min(left + (now - since) * self._rate / 60, float(self._rate))
        allowed = left >= 1
        self._left[client] = (left - 1 if allowed else left), now
        if len(self._left) > _MOST_CLIENTS:
            self._left.popitem(last=False)
        if allowed:
            return None
        wait = (1 - left) * 60 / self._rate
        return ApiError(429, f"More than {self._rate} requests a minute: slow down.", None, "rate_limited", wait)
