"""A server of one process, from its first line to its last: listens, says where, and stops without losing a job."""

import asyncio
import logging
import socket
import sys
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from eyesel.errors import SettingError
from eyesel.serve.app import GRACE, create_app
from eyesel.serve.connections import Connection, open_more
from eyesel.serve.engine import Engine
from eyesel.serve.logs import JsonLines
from eyesel.serve.options import ServerOptions

KEEP_ALIVE = 75  # seconds: longer than clients keep connections, so that none is closed under a request


class Server(uvicorn.Server):
    """uvicorn's, which lets the engine end what runs before it closes connections."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self.engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first Ctrl-C counts: stopping takes `GRACE` seconds at most, and a second would leave jobs untold."""
        if not self.should_exit:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self.engine.stop(GRACE)
        await super().shutdown(sockets)


def run(options: ServerOptions) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises `EyeselError` before that if it cannot."""
    with listen(options.host, options.port) as listening:
        engine = Engine(options)
        open_more()
        _log_to(sys.stderr)
        asyncio.run(_serve(Server(configured(create_app(options, engine)), engine), listening, options))


def configured(app: FastAPI) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=5,
    )


async def _serve(server: Server, listening: socket.socket, options: ServerOptions) -> None:
    await server.engine.start()
    host, port = listening.getsockname()[:2]
    print(f"eyesel serves {', '.join(options.models)} at {address(host, port)} (Ctrl-C stops)", flush=True)
    if interrupted := server.engine.store.interrupted:
        print(f"jobs that the last server did not finish: {interrupted}, kept as interrupted", flush=True)
    await server.serve(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; `SettingError` where none can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only with its protocol named does asyncio send at once; without, an answer waits 40 ms to be acknowledged.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise SettingError(f"{host} port {port} cannot be listened on ({reason}): choose another --port.") from None
    return listening


def address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _log_to(stream: Any) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    for name, level in (("eyesel.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    logging.getLogger("uvicorn.error").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """That streams are cut when the server stops is said in a line of its own, and needs no traceback for each."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
