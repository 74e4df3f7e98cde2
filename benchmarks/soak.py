"""Thousands of mixed requests, good and bad, against one server that is killed now and then.

Each worker asks what chance tells it to: classifications, embeddings and attention of all three kinds of bodies, jobs
that are awaited, cancelled or forgotten, pictures that are none, JSON that is none, requests that break off. In the end
of each part the server is killed in the midst of requests and started again on its folder; the last one is asked for
every job that was ever accepted.

    python -m benchmarks.soak --requests 10000

It fails on a 5xx, on a job that is lost, and on memory that grows by more than 5 % from a fifth of a part to its end.
"""

import argparse
import asyncio
import base64
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks import results
from benchmarks.folders import jpeg
from benchmarks.measure import environment
from benchmarks.serving import EYESEL

WORKERS, PICTURES = 16, 16
ENDED = ("done", "failed", "cancelled", "interrupted")
MOST_GROWTH = 0.05


@dataclass
class Soak:
    """What one worker after the other has seen."""

    url: str
    pictures: list[bytes]
    random: random.Random
    answers: Counter[str] = field(default_factory=Counter)
    jobs: dict[str, str] = field(default_factory=dict)  # what became of those that were accepted, as far as known
    problems: list[str] = field(default_factory=list)

    async def ask(self, client: httpx.AsyncClient) -> None:
        """One request, or one job with all its requests."""
        name = self.random.choice(
            [
                "raw",
                "json",
                "form",
                "embed",
                "attend",
                "job",
                "job",
                "cancelled",
                "forgotten",
                "garbage",
                "broken",
                "bad",
            ]
        )
        await getattr(self, f"_{name}")(client)

    def _saw(self, what: str, answer: httpx.Response) -> httpx.Response:
        self.answers[f"{what} {answer.status_code}"] += 1
        if answer.status_code >= 500:
            self.problems.append(f"{what}: {answer.status_code} {answer.text[:200]}")
        return answer

    def _picture(self) -> bytes:
        return self.random.choice(self.pictures)

    async def _raw(self, client: httpx.AsyncClient) -> None:
        self._saw("classify", await client.post("/classify?top_k=3", content=self._picture()))

    async def _json(self, client: httpx.AsyncClient) -> None:
        text = base64.b64encode(self._picture()).decode()
        self._saw("classify", await client.post("/classify", json={"image": text}))

    async def _form(self, client: httpx.AsyncClient) -> None:
        self._saw("classify", await client.post("/classify", files={"image": self._picture()}))

    async def _embed(self, client: httpx.AsyncClient) -> None:
        pool = self.random.choice(["cls", "mean"])
        self._saw("embed", await client.post("/embed", files={"image": self._picture()}, data={"pool": pool}))

    async def _attend(self, client: httpx.AsyncClient) -> None:
        method = self.random.choice(["rollout", "gradcam", "attention"])
        self._saw("attend", await client.post(f"/attend?method={method}", content=self._picture()))

    async def _order(self, client: httpx.AsyncClient, **more: Any) -> str | None:
        order = {"prompt": "a large fox on a blue background", "steps": self.random.randint(1, 4), **more}
        answer = self._saw("job", await client.post("/jobs", json=order))
        if answer.status_code != 202:
            return None
        id = str(answer.json()["id"])
        self.jobs[id] = "accepted"
        return id

    async def _job(self, client: httpx.AsyncClient) -> None:
        id = await self._order(client, n=self.random.randint(1, 2))
        while id is not None and self.jobs[id] not in ENDED:
            await asyncio.sleep(0.05)
            self.jobs[id] = (await client.get(f"/jobs/{id}")).json()["state"]
        if id is not None and self.jobs[id] == "done":
            self._saw("picture", await client.get(f"/jobs/{id}/pictures/0"))

    async def _cancelled(self, client: httpx.AsyncClient) -> None:
        id = await self._order(client, steps=50)
        if id is not None:
            self._saw("cancel", await client.delete(f"/jobs/{id}"))

    async def _forgotten(self, client: httpx.AsyncClient) -> None:
        await self._order(client)

    async def _garbage(self, client: httpx.AsyncClient) -> None:
        path = self.random.choice(["/classify", "/embed", "/attend", "/jobs", "/nowhere"])
        body = self.random.choice(
            [self.random.randbytes(300), b"{", b"[]", b'{"image": 1}', b"", self._picture()[:200]]
        )
        kind = self.random.choice(["application/json", "image/png", "multipart/form-data; boundary=x", "text/plain"])
        self._saw("garbage", await client.post(path, content=body, headers={"content-type": kind}))

    async def _bad(self, client: httpx.AsyncClient) -> None:
        order = self.random.choice(
            [{"steps": -1}, {"solver": "best"}, {"size": [1, 1]}, {"nothing": 1}, {"prompt": ""}]
        )
        self._saw("bad", await client.post("/jobs", json={"prompt": "a fox", **order}))

    async def _broken(self, client: httpx.AsyncClient) -> None:
        """A request that stops in its middle, or does not wait for its answer."""
        url = httpx.URL(self.url)
        _, writer = await asyncio.open_connection(url.host, url.port)
        body = self._picture()
        head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        writer.write((head + body)[: self.random.choice([10, len(head), len(head) + 50, len(head) + len(body)])])
        await writer.drain()
        writer.close()
        self.answers["broken off"] += 1


class Server:
    """`eyesel serve` in a process of its own."""

    def __init__(self, data: Path) -> None:
        command = [*EYESEL, "--port", "0", "--data", str(data), "--kept", "1000000"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=(data / "log").open("a"), text=True, env=environment()
        )
        assert self.process.stdout is not None
        found = re.search(r"http://\S+", self.process.stdout.readline())
        if found is None:
            raise SystemExit("the server did not start")
        self.url = found[0]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


async def memory(client: httpx.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    return float(re.search(r'eyesel_memory_bytes\{of="process"\} (\S+)', text)[1])  # type: ignore[index]


async def part(soak: Soak, requests: int) -> list[float]:
    """So many requests; memory after each tenth of them."""
    readings = []
    async with httpx.AsyncClient(base_url=soak.url, timeout=120) as client:
        for _ in range(10):
            left = iter(range(requests // 10))

            async def work(left: Any = left) -> None:
                for _ in left:
                    await soak.ask(client)

            await asyncio.gather(*(work() for _ in range(WORKERS)))
            readings.append(await memory(client))
    return readings


async def killed(soak: Soak, server: Server) -> None:
    """All workers ask, and in the midst of it the server dies."""

    async def work(client: httpx.AsyncClient) -> None:
        while True:
            await soak.ask(client)

    async with httpx.AsyncClient(base_url=soak.url, timeout=120) as client:
        working = [asyncio.create_task(work(client)) for _ in range(WORKERS)]
        await asyncio.sleep(soak.random.uniform(0.5, 2))
        server.kill()
        for ended in await asyncio.gather(*working, return_exceptions=True):
            if isinstance(ended, BaseException) and not isinstance(ended, (httpx.TransportError, OSError)):
                raise ended


async def lost(soak: Soak, states: Counter[str]) -> list[str]:
    """Counts what became of all jobs; those are lost that are not there, not at an end, or done without a picture."""
    found = []
    async with httpx.AsyncClient(base_url=soak.url, timeout=120) as client:
        for id, known in soak.jobs.items():
            answer = await client.get(f"/jobs/{id}")
            state = answer.json().get("state") if answer.status_code == 200 else str(answer.status_code)
            states[state] += 1
            pictures = (await client.get(f"/jobs/{id}/pictures/0")).status_code
            if state not in ENDED or (known in ENDED and known != state) or (state == "done") != (pictures == 200):
                found.append(f"{id}: was {known}, is {state}, its picture {pictures}")
    return found


async def run(requests: int, parts: int, seed: int, data: Path) -> tuple[bool, list[str]]:
    """Whether all went well, and what was seen."""
    pictures = [jpeg((64, 48), i) for i in range(PICTURES)]
    soak = Soak("", pictures, random.Random(seed))
    growth, seen = [], []
    for number in range(parts):
        server = Server(data)
        soak.url = server.url
        readings = await part(soak, requests // parts)
        growth.append(readings[-1] / readings[1] - 1)
        told = ", ".join(f"{reading / 2**20:.0f}" for reading in readings)
        seen.append(f"part {number + 1}: memory {told} MB, {growth[-1]:+.1%}")
        print(seen[-1], flush=True)
        await killed(soak, server)
    server = Server(data)
    soak.url = server.url
    states: Counter[str] = Counter()
    missing = await lost(soak, states)
    server.kill()
    last = [
        f"answers: {_counts(soak.answers)}",
        f"jobs accepted: {len(soak.jobs)} ({_counts(states)}); lost: {len(missing)} {', '.join(missing[:5])}".rstrip(),
        f"5xx: {len(soak.problems)} {', '.join(soak.problems[:5])}".rstrip(),
    ]
    print("\n".join(last))
    return not missing and not soak.problems and max(growth) <= MOST_GROWTH, [*seen, *last]


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{name}: {number}" for name, number in sorted(counted.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--parts", type=int, default=4, help="the server is killed after each (default 4)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put what was seen into benchmarks/results.md")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as data:
        good, seen = asyncio.run(run(arguments.requests, arguments.parts, arguments.seed, Path(data)))
    if arguments.write:
        how = f"`python -m benchmarks.soak --requests {arguments.requests}`"
        results.write("soak", __doc__ or "", how, "\n".join(f"- {line}" for line in seen))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
