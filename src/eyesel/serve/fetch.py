"""Pictures at web addresses, without reaching into the network that the server stands in.

A name is looked up once, every address that it has must be public, and the connection goes to the address that was
checked: a name that answers differently the next time (DNS rebinding) gains nothing. Redirects are followed by the same
rule. What comes is bounded in bytes and seconds.
"""

import contextlib
import http.client
import io
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from eyesel.serve.errors import ApiError

MOST_REDIRECTS = 3
SECONDS = 15.0
_PORTS = {"http": 80, "https": 443}
# Public by their numbers, and yet ways to addresses that need not be: NAT64, 6to4
_TUNNELS = (
    ipaddress.ip_network("64:ff9b::/96"),
    ipaddress.ip_network("64:ff9b:1::/48"),
    ipaddress.ip_network("2002::/16"),
)


def is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif any(ip in tunnel for tunnel in _TUNNELS):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def fetch(url: str, most: int, field: str = "image", allowed: Callable[[str], bool] = is_public) -> bytes:
    """The body of `url`, of at most `most` bytes. Blocks, for `SECONDS` at most. Raises `ApiError` 400."""
    deadline = time.monotonic() + SECONDS
    try:
        for _ in range(MOST_REDIRECTS + 1):
            response = _get(_split(url, field), deadline, field, allowed)
            with response:
                if response.status in (301, 302, 303, 307, 308) and (target := response.headers.get("Location")):
                    url = urljoin(url, target)
                    continue
                if response.status != 200:
                    raise _refused(f"The address answers with status {response.status}.", field)
                return _read(response, most, field)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _refused(f"The address cannot be fetched ({type(error).__name__}).", field) from None
    raise _refused(f"The address redirects more than {MOST_REDIRECTS} times.", field)


def _split(url: str, field: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
        raise _refused("The address must be http or https, with a host and without a password.", field)
    return parts


def _get(parts: SplitResult, deadline: float, field: str, allowed: Callable[[str], bool]) -> http.client.HTTPResponse:
    host, port = str(parts.hostname), parts.port or _PORTS[parts.scheme]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(allowed(address) for address in addresses):
        raise _refused("The address is not a public one.", field)
    path = parts.path or "/"
    connection = http.client.HTTPConnection(host, port)
    with contextlib.ExitStack() as failing:
        failing.callback(connection.close)
        connection.sock = socket.create_connection((addresses[0], port), _left(deadline))
        if parts.scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=host)
        connection.request("GET", f"{path}?{parts.query}" if parts.query else path, headers={"User-Agent": "eyesel"})
        response = http.client.HTTPResponse(connection.sock, method="GET")
        response.fp.close()
        response.fp = io.BufferedReader(_Timed(connection.sock, deadline))
        response.begin()
        failing.pop_all()  # the response closes what it reads from
    return response


class _Timed(io.RawIOBase):
    """What a socket receives, until the deadline, however little comes at a time."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._connected, self._deadline = connected, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connected.settimeout(_left(self._deadline))
        return self._connected.recv_into(buffer)

    def close(self) -> None:
        self._connected.close()
        super().close()


def _read(response: http.client.HTTPResponse, most: int, field: str) -> bytes:
    chunks, size = [], 0
    while chunk := response.read1(2**16):
        size += len(chunk)
        if size > most:
            raise _refused(f"What is at the address has more than {most:,} bytes.", field)
        chunks.append(chunk)
    return b"".join(chunks)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _refused(message: str, field: str) -> ApiError:
    return ApiError(400, message, field, "url_not_fetched")
