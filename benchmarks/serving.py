"""A classifier behind `eyesel serve` under 1 to 128 clients at once, beside the network alone and a plain server.

The network alone is what the model does with batches that are there already, of as many pictures as there are clients
and 16 at most: what a server without any cost of its own would reach.
The plain server is the same model behind transformers' pipeline and FastAPI, one picture at a time. All three have the
machine to themselves and the same threads; the clients share it with the servers.

    python -m benchmarks.serving --seconds 60
"""

import argparse
import asyncio
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import torch

from benchmarks import results
from benchmarks.folders import jpeg
from benchmarks.measure import environment
from benchmarks.vit import folder as vit_folder
from eyesel import ImageClassifier

BATCH, DIFFERENT = 16, 64
LEVELS = (1, 8, 32, 128)
EYESEL = (sys.executable, "-c", "from eyesel.cli import main; main()", "serve", "--no-web")
COLUMNS = (
    "clients",
    "network alone",
    "eyesel",
    "p50 ms",
    "p99 ms",
    "of the network",
    "plain server",
    "p50 ms",
    "p99 ms",
)


@dataclass(frozen=True)
class Load:
    """What so many clients got: answers a second, and seconds for each answer."""

    rate: float
    median: float
    slowest: float  # of a hundred

    def cells(self) -> str:
        return f"{self.rate:.1f} | {self.median * 1000:.0f} | {self.slowest * 1000:.0f}"


class Client:
    """One connection that is kept; as little work as a client can do, since it shares the machine."""

    def __init__(self, port: int, path: str) -> None:
        self._port, self._path = port, path

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def post(self, body: bytes) -> int:
        """The status of an answer."""
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        await self._writer.drain()
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
        await self._reader.readexactly(int(length[1]) if length else 0)
        return int(answer[9:12])

    def close(self) -> None:
        self._writer.close()


async def load(port: int, path: str, clients: int, seconds: float, bodies: Sequence[bytes]) -> Load:
    """So many clients that each send a picture when they have the last answer; the first tenth does not count."""
    took: list[float] = []
    begin = time.perf_counter() + seconds / 10
    end = begin + seconds

    async def one(number: int) -> None:
        client = Client(port, path)
        await client.open()
        turn = number
        while (start := time.perf_counter()) < end:
            status = await client.post(bodies[turn % len(bodies)])
            if status != 200:
                raise SystemExit(f"{path} answered with {status}")
            done = time.perf_counter()
            if begin <= done < end:
                took.append(done - start)
            turn += clients
        client.close()

    await asyncio.gather(*(one(number) for number in range(clients)))
    took.sort()
    return Load(len(took) / seconds, statistics.median(took), took[int(0.99 * (len(took) - 1))])


def alone(model: Path | str, batch: int, seconds: float) -> float:
    """Pictures a second of the network with batches of so many."""
    eye = ImageClassifier.load(model)
    height, width = eye.model.config.image_size
    pixels = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
    eye.network(pixels)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        eye.network(pixels)
        count += batch
    return count / (time.perf_counter() - start)


@contextmanager
def server(command: list[str], ready: str) -> Iterator[int]:
    """A server process on a free port; answers to `ready` when it can work."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    )
    try:
        for _ in range(600):
            try:
                urlopen(f"http://127.0.0.1:{port}{ready}", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def plain(model: str, port: int) -> None:
    """The server that one writes in an afternoon."""
    import io

    import transformers
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.concurrency import run_in_threadpool
    from PIL import Image

    eye = ImageClassifier.load(model)
    pipeline = transformers.pipeline("image-classification", model=model, dtype=eye.dtype)
    app = FastAPI()

    @app.get("/health")
    def health() -> str:
        return "Ok"

    @app.post("/classify")
    async def classify(request: Request) -> list[dict[str, object]]:
        picture = Image.open(io.BytesIO(await request.body()))
        found: list[dict[str, object]] = await run_in_threadpool(pipeline, picture)
        return found

    uvicorn.run(app, port=port, log_level="error")


def measure(model: str, levels: Sequence[int], seconds: float, size: tuple[int, int]) -> str:
    """The table in Markdown."""
    bodies = [jpeg(size, seed) for seed in range(DIFFERENT)]
    commands = {
        "eyesel": [*EYESEL, "--model", model, "--max-batch", str(BATCH), "--port"],
        "plain": [sys.executable, "-m", "benchmarks.serving", "--plain", model, "--port"],
    }
    lines = [f"| {' | '.join(COLUMNS)} |", "|---:" * len(COLUMNS) + "|"]
    for clients in levels:
        batch = min(clients, BATCH)
        before = alone(model, batch, seconds / 4)
        got = {}
        for name, command in commands.items():
            with server(command, "/health") as port:
                asyncio.run(load(port, "/classify", clients, min(seconds, 5), bodies))
                got[name] = asyncio.run(load(port, "/classify", clients, seconds, bodies))
        best = (before + alone(model, batch, seconds / 4)) / 2
        share = got["eyesel"].rate / best
        lines.append(f"| {clients} | {best:.1f} | {got['eyesel'].cells()} | {share:.0%} | {got['plain'].cells()} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of each level and server (default 60)")
    parser.add_argument("--levels", type=int, nargs="+", default=LEVELS, help="clients at once")
    parser.add_argument("--model", help="default: a ViT-B/16 of random weights")
    parser.add_argument("--size", type=int, nargs=2, default=(320, 240), help="of the JPEGs (default 320 240)")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/results.md")
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain:
        plain(arguments.plain, arguments.port)
        return
    with tempfile.TemporaryDirectory() as scratch:
        model = arguments.model or str(vit_folder(Path(scratch)))
        table = measure(model, arguments.levels, arguments.seconds, tuple(arguments.size))
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    said = f"Pictures a second, JPEGs of {arguments.size[0]}x{arguments.size[1]}."
    print(f"{results.machine()} (OMP_NUM_THREADS: {threads})\n\n{said}\n\n{table}")
    if arguments.write:
        how = f"`python -m benchmarks.serving --seconds {arguments.seconds:g}`, OMP_NUM_THREADS: {threads}"
        results.write("serving", __doc__ or "", how, f"{said}\n\n{table}")


if __name__ == "__main__":
    main()
