"""Two replicas of the server on this machine, one of which is killed under load: what clients notice.

    python -m benchmarks.ray_replicas --seconds 20

Starts `eyesel serve --ray` with the bundled models, asks it from several clients, kills a replica with SIGKILL
half-way, and prints what became of the requests and of the jobs. Needs the extras [serve] and [scale], and Linux.
With RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH set to nothing it shows what Ray does by itself.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import eyesel
from benchmarks import results

PICTURE = Path(eyesel.__file__).parent / "assets" / "tiny" / "examples" / "fox.png"
ORDER = {"prompt": "a large fox on a blue background", "steps": 4, "seed": 7}
PATIENCE = 60  # seconds that a client waits for an answer


@dataclass
class Seen:
    """What the clients saw: of each request its end and its seconds, and what went wrong."""

    ended: list[tuple[float, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)


class Served:
    """The command in a process of its own, and the processes of its replicas."""

    def __init__(self, *options: str) -> None:
        program = [sys.executable, "-c", "from eyesel.cli import main; main()", "serve", "--ray", "--port", "0"]
        self.process = subprocess.Popen(
            [*program, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        lines = iter(self.process.stdout.readline, "")
        self.url = next((found[0] for line in lines if (found := re.search(r"http://[\d.]+:\d+", line))), "")
        threading.Thread(target=lambda: [*lines], daemon=True).start()  # what is written after it is read, too
        assert self.url, "the server did not start"

    def replicas(self) -> set[int]:
        """Those that are there, of this command and no other."""
        parents, titled = {}, set()
        for entry in Path("/proc").iterdir():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if (entry / "cmdline").read_bytes().startswith(b"ray::ServeReplica:eyesel"):
                    titled.add(int(entry.name))
            except (OSError, ValueError):  # it has ended, or is no process
                continue
        return {pid for pid in titled if self.process.pid in _above(pid, parents)}

    def stop(self) -> int:
        """Its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(120)
        finally:
            self.process.kill()


def _above(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid := parents.get(pid, 0):
        yield pid


def ask(url: str, body: bytes | None = None, kind: str = "image/png", method: str | None = None) -> Any:
    request = urllib.request.Request(url, body, {"Content-Type": kind}, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.loads(answer.read())


def client(served: Served, seen: Seen, until: float, paints: bool) -> None:
    """One that classifies, or orders pictures, again and again, and never asks twice."""
    picture = PICTURE.read_bytes()
    while time.monotonic() < until:
        started = time.monotonic()
        try:
            if paints:
                seen.jobs.append(ask(f"{served.url}/jobs", json.dumps(ORDER).encode(), "application/json")["id"])
                time.sleep(0.2)
            else:
                label = ask(f"{served.url}/classify?top_k=1", picture)["predictions"][0][0]["label"]
                if label != "fox":
                    seen.failed.append(f"a fox was called {label}")
        except Exception as error:
            said = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
            seen.failed.append(f"{error} {said}"[:200])
            continue
        seen.ended.append((time.monotonic(), time.monotonic() - started))


def wait_for_replicas(served: Served, number: int, other_than: int | None = None) -> None:
    deadline = time.monotonic() + 120
    while len(served.replicas() - {other_than}) < number:
        assert time.monotonic() < deadline, "the replicas did not come back"
        time.sleep(0.1)


def measure(served: Served, seconds: float, clients: int, painters: int, kill: bool) -> dict[str, Any]:
    """Load for so many seconds; with `kill`, one replica is killed half-way."""
    seen = Seen()
    start = time.monotonic()
    threads = [
        threading.Thread(target=client, args=(served, seen, start + seconds, number < painters))
        for number in range(clients + painters)
    ]
    for thread in threads:
        thread.start()
    facts: dict[str, Any] = {}
    if kill:
        time.sleep(seconds / 2)
        victim = max(served.replicas())
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        wait_for_replicas(served, 2, victim)
        facts["a new replica's process after (s)"] = round(time.monotonic() - killed, 1)
    for thread in threads:
        thread.join()
    took = sorted(each for _, each in seen.ended)
    states = [job_state(served, id) for id in seen.jobs]
    return {
        "requests": len(seen.ended) + len(seen.failed),
        "failed": len(seen.failed),
        "failures": "; ".join(seen.failed[:3]),
        "requests/s": round(len(took) / seconds, 1),
        "p50 (ms)": round(1000 * took[len(took) // 2], 1),
        "p99 (ms)": round(1000 * took[len(took) * 99 // 100], 1),
        "slowest (ms)": round(1000 * took[-1], 1),
        "jobs": ", ".join(f"{state}: {states.count(state)}" for state in sorted(set(states))),
        **facts,
    }


def job_state(served: Served, id: str) -> str:
    """How a job ended; asking about one whose replica is gone is no error."""
    deadline = time.monotonic() + PATIENCE
    while (state := ask(f"{served.url}/jobs/{id}")["state"]) in ("queued", "running"):
        assert time.monotonic() < deadline, f"job {id} does not end"
        time.sleep(0.1)
    return str(state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--painters", type=int, default=2, help="clients that order pictures")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/results.md")
    given = parser.parse_args()
    served = Served("--replicas", "2")
    try:
        wait_for_replicas(served, 2)
        measure(served, 2, given.clients, 0, kill=False)  # the first requests are slow
        calm = measure(served, given.seconds, given.clients, given.painters, kill=False)
        killed = measure(served, given.seconds, given.clients, given.painters, kill=True)
    finally:
        print("exit code", served.stop())
    lines = [f"| {name} | {calm.get(name, '')} | {killed[name]} |" for name in killed]
    table = "\n".join(["| | nothing killed | one replica killed |", "|---|---|---|", *lines])
    print(table)
    if given.write:
        how = f"`python -m benchmarks.ray_replicas --seconds {given.seconds:g}`"
        results.write("ray_replicas", __doc__ or "", how, table)


if __name__ == "__main__":
    main()
