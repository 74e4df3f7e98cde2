"""Connections that are given up on: those whose client neither asks, nor reads what it is answered, and too many.

uvicorn waits forever for the head of a request, and for a reader; each such connection is a file that is open.
"""

import asyncio
import resource
from collections.abc import Hashable

from uvicorn.protocols.http.auto import AutoHTTPProtocol

PATIENCE = 30.0  # seconds in which a client has to do what it owes
BETWEEN = 5.0  # seconds between two looks at a connection
HEAD = 65_536  # bytes of the line and the headers of a request
RESERVED = 128  # files that are no connections: weights, pictures, the table of jobs


def open_more() -> None:
    """Let the process have as many files open as it may allow itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2**16 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def room() -> int:
    """How many connections there may be."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2**16 if files == resource.RLIM_INFINITY else max(files - RESERVED, RESERVED)


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's, with an end to patience; one for which there is no room is closed unheard."""

    patience: float = PATIENCE

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._owed: Hashable = None
        self._since, self._head = self.loop.time(), 0
        self._in_head = False
        self._look_again: asyncio.TimerHandle | None = None
        if len(self.connections) > room():
            transport.abort()
        else:
            self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look_again is not None:
            self._look_again.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Whatever is owed has to become less, or another thing, while patience lasts."""
        owed, now = self._owes(), self.loop.time()
        if owed is None or owed != self._owed:
            self._owed, self._since = owed, now
        elif now - self._since >= self.patience:
            self.transport.abort()
            return
        self._look_again = self.loop.call_later(min(BETWEEN, self.patience / 4), self._look)

    def _owes(self) -> Hashable:
        """To read what is on its way, or the head of a request; between two requests uvicorn itself keeps time."""
        if unread := self.transport.get_write_buffer_size():
            return "read", unread
        if (self.cycle is None or self.cycle.response_complete) and self.timeout_keep_alive_task is None:
            return "ask", id(self.cycle)
        return None

    # h11 has a limit of its own, httptools, which calls these two, has none

    def on_message_begin(self) -> None:
        self._in_head, self._head = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head += len(data)
            if self._head > HEAD and not self.transport.is_closing():
                self.send_400_response("The head of the request is too long.")
