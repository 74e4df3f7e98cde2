"""Who may ask, and how often."""

import base64
import contextlib
import hashlib
import hmac
import ipaddress
import time
from collections import OrderedDict
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from eyesel.serve.dialects import rendered
from eyesel.serve.errors import ApiError
from eyesel.serve.options import ServerOptions

OPEN = frozenset({"/health", "/ready", "/v2/health/live", "/v2/health/ready"})  # what balancers ask, without a key
# Of the pages, a hundred at a time: they do not count in the rate
PARTS = ("/assets/", "/static/", "/static-offline-docs/", "/gradio_api/file=")
_MOST_CLIENTS = 10_000  # whose rates are remembered
_NEAR = (".localhost", ".local", ".internal")  # ends of names that are not given away (RFC 6761, RFC 6762, ICANN)
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


def given_keys(headers: Headers) -> list[str]:
    """What a request may mean as its key: a Bearer token, X-API-Key, Basic's password, or its `user:password`."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    given = [headers["x-api-key"]] if "x-api-key" in headers else []
    if kind.lower() == "bearer":
        given.append(value.strip())
    if kind.lower() == "basic":
        with contextlib.suppress(ValueError):  # no base64, or no text in it
            pair = base64.b64decode(value, validate=True).decode()
            given += [pair.partition(":")[2], pair]
    return given


def right_key(given: list[str], keys: tuple[str, ...]) -> str | None:
    """The one of `keys` that was given, found in a time that does not tell which characters are right."""
    right = [key for key in keys for each in given if hmac.compare_digest(_digest(each), _digest(key))]
    return right[0] if right else None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def client_of(scope: Scope) -> str:
    """A name for who asks, by its key and address, that gives neither away."""
    state: dict[str, str] = scope.get("state", {})
    return state.get("client") or _name(scope)


def _name(scope: Scope, *keys: str) -> str:
    return _digest("\0".join((_network(scope), *keys))).hex()[:12]


def _network(scope: Scope) -> str:
    """The address of who asks; of version 6 its network, in which one machine has as many as it likes."""
    host = str((scope.get("client") or ("",))[0])
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(ipaddress.ip_network((ip, 64), strict=False)) if ip.version == 6 else host


def foreign(headers: Headers, method: str, sites: tuple[str, ...]) -> ApiError | None:
    """The refusal for a request that a page of some web site makes, in the browser of somebody at this machine.

    Such a page reaches a server that listens to this machine alone: it can send what it cannot read, which tells its
    `Origin`, and if its name is made to stand for this machine (DNS rebinding), read, too, which tells that name.
    `sites` are those that may ask.
    """
    host, origin = headers.get("host"), headers.get("origin")
    if origin is not None and (origin in sites or "*" in sites):
        return None
    if host is not None and not _is_near(host):
        return ApiError(
            403,
            f"This server is not called {host[:100]!r}: ask 127.0.0.1, or start it with --api-key or --insecure.",
            None,
            "forbidden_host",
        )
    if origin is not None and method not in _READING and origin.partition("://")[2] != host:
        return ApiError(
            403, f"Pages of {origin[:100]!r} may not ask here: allow them by --cors.", None, "forbidden_origin"
        )
    return None


def _is_near(host: str) -> bool:
    """Whether no web site can have that name, such as host.docker.internal."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or name.endswith(_NEAR) or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Access:
    """Requests without a right key are answered with 401, those that come too fast with 429."""

    def __init__(self, app: ASGIApp, options: ServerOptions) -> None:
        self._app, self._options = app, options
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
        """And who asks is noted in the scope, for `client_of`: keys that nobody checks make nobody another client."""
        headers, keys = Headers(scope=scope), self._options.api_keys
        given = given_keys(headers)
        right = right_key(given, keys)
        names = given if not keys else [right] if right is not None else []
        scope.setdefault("state", {})["client"] = _name(scope, *names)
        if self._options.private and (error := foreign(headers, scope["method"], self._options.cors)):
            return error
        known = not keys or right is not None
        if not (known and scope["path"].startswith(PARTS)):
            error = self._too_fast(_name(scope) if right is None else _name(scope, right))
            if error is not None:
                return error
        if not known and scope["method"] != "OPTIONS":
            return ApiError(
                401, "The API key is missing or wrong: send it as Authorization: Bearer KEY.", None, "invalid_api_key"
            )
        return None

    def _too_fast(self, client: str) -> ApiError | None:
        rate = self._options.limits.rate
        if rate is None:
            return None
        now = time.monotonic()
        left, since = self._left.pop(client, (float(rate), now))
        left = min(left + (now - since) * rate / 60, float(rate))
        allowed = left >= 1
        self._left[client] = (left - 1 if allowed else left), now
        if len(self._left) > _MOST_CLIENTS:
            self._left.popitem(last=False)
        if allowed:
            return None
        wait = (1 - left) * 60 / rate
        return ApiError(429, f"More than {rate} requests a minute: slow down.", None, "rate_limited", wait)
