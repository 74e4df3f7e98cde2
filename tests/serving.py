"""Servers under test: real ones, on a free port of this machine, with the bundled models."""

import asyncio
import io
import threading
import time
from contextlib import contextmanager

import httpx

from eyesel.serve.app import create_app
from eyesel.serve.engine import Engine
from eyesel.serve.options import ServerOptions
from eyesel.serve.run import Server, configured, listen

FOX = "a large fox on a blue background"


class Live:
    """A server in a thread: its address, its engine, and the loop in which the engine lives."""

    def __init__(self, options):
        self.engine, self._listening = Engine(options), listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.app = create_app(options, self.engine)
        self.server = Server(configured(self.app), self.engine)
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        with asyncio.Runner() as runner:
            self.loop = runner.get_loop()
            runner.run(self.server.serve(sockets=[self._listening]))

    def __enter__(self):
        self._thread.start()
        wait_for(lambda: self.engine.ready)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self._thread.join(60)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@contextmanager
def serving(**options):
    with Live(ServerOptions(**options)) as live, httpx.Client(base_url=live.url, timeout=60) as client:
        client.live = live
        yield client


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def with_engine(work, **options):
    """Run `work(engine)`, a coroutine, with an engine that starts before and stops after it."""

    async def run():
        engine = Engine(ServerOptions(**options))
        await engine.start()
        try:
            return await asyncio.wait_for(work(engine), 60)
        finally:
            await engine.stop(0)

    return asyncio.run(run())
