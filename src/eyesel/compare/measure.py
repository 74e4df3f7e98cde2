"""Runs `probe` for models and gathers what it finds until their time is over."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from eyesel.compare.facts import Facts

ROUNDS = 5  # of timing
STAGES = ROUNDS + 3  # loading, a warm-up, the rounds, trying out

CAPABILITIES = {
    "classifier": ("classify", "embed", "embed patches", "attention maps", "maps of a class", "other picture sizes"),
    "painter": (
        "text to image",
        "negative prompts",
        "weighted words",
        "image to image",
        "inpainting",
        "style transfer",
        "two passes",
        "LoRAs",
    ),
}


@dataclass(frozen=True)
class Capability:
    """`can` None is unknown. `detail` says how, or why not."""

    can: bool | None
    detail: str | None = None


@dataclass
class Measured:
    """What was measured, by name: `load_seconds`, `peak_bytes`, and round by round `images_per_second_1` and `_8`, or
    `step_seconds`. A name that is missing is unknown.
    """

    figures: dict[str, list[float]] = field(default_factory=dict)
    device: str | None = None
    dtype: str | None = None
    capabilities: dict[str, Capability] = field(default_factory=dict)
    note: str | None = None  # why something is missing

    def figure(self, name: str) -> float | None:
        """The median of the rounds; of a peak, the last."""
        rounds = self.figures.get(name)
        if not rounds:
            return None
        return rounds[-1] if name == "peak_bytes" else statistics.median(rounds)


def measure(
    models: Sequence[Facts],
    device: str = "auto",
    precision: str = "auto",
    seconds: float = 120,
    advance: Callable[[], None] = lambda: None,
) -> list[Measured]:
    """Load, time and try models, each in a fresh process that is stopped once it has worked for `seconds`.

    Rounds of timing are taken in turns, so that a slow spell of the machine hits all of them; the first is a warm-up.
    `advance` is called `STAGES` times for each model.
    """
    workers: list[_Worker] = []
    try:
        for facts in models:
            workers.append(_Worker(facts, device, precision, seconds))
            workers[-1].listen()
            advance()
        for turn in range(1 + ROUNDS + 1):
            for worker in workers:
                worker.ask("try" if turn > ROUNDS else "time", keep=turn > 0)
                advance()
    finally:
        for worker in workers:
            worker.stop()
    return [worker.result for worker in workers]


class _Worker:
    """A process of `probe` and what it has told so far."""

    def __init__(self, facts: Facts, device: str, precision: str, seconds: float) -> None:
        command = [sys.executable, "-m", "eyesel.compare.probe", facts.kind, str(facts.path), device, precision]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 a pipe that nobody reads would fill up
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True, bufsize=1)
        self._left, self._limit = seconds, seconds
        self.result = Measured(capabilities={name: Capability(None) for name in CAPABILITIES[facts.kind]})

    def ask(self, what: str, keep: bool = True) -> None:
        """Have it do something; `keep` what it tells."""
        if self.result.note is not None or self._process.stdin is None:
            return
        with suppress(BrokenPipeError):  # it is gone, and what it said last is heard below
            self._process.stdin.write(what + "\n")
        self.listen(keep)

    def listen(self, keep: bool = True) -> None:
        """Take what it tells up to the end of an answer, or of its time, or of itself."""
        start, timer = time.monotonic(), threading.Timer(max(0.0, self._left), self._process.kill)
        timer.start()
        for line in self._process.stdout or ():
            if line.strip() == "{}":
                break
            if keep and line.startswith("{"):
                self._take(json.loads(line))
        else:
            self.result.note = self._last_words(time.monotonic() - start >= self._left)
        timer.cancel()
        self._left -= time.monotonic() - start

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _last_words(self, late: bool) -> str:
        if late:
            return f"stopped after {self._limit:g} s (--time-limit)"
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or ["no message"]
        return f"its process ended with code {code} ({lines[-1][:200]})"

    def _take(self, finding: dict[str, Any]) -> None:
        if "capability" in finding:
            self.result.capabilities[finding["capability"]] = Capability(finding["can"], finding["detail"])
            return
        for name, value in finding.items():
            if name in ("device", "dtype"):
                setattr(self.result, name, value)
            else:
                self.result.figures.setdefault(name, []).append(value)


def machine() -> str:
    """The processor, its threads, and torch's version."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} threads, torch {torch.__version__}"
