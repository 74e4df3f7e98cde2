"""What the benchmarks share: paired timing, fresh processes, one table."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import results

Contenders = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Row:
    """One line of the table: a median, and how many times better eyesel is (None on eyesel's own line)."""

    question: str
    contender: str
    value: str
    eyesel: float | None = None


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def paired(contenders: Contenders, repeats: int, warm_up: int = 1) -> dict[str, float]:
    """Median seconds of each, taken in turns (A B C A B C ...), so that a slow spell of the machine hits them all."""
    for call in contenders.values():
        for _ in range(warm_up):
            call()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, call in contenders.items():
            times[name].append(seconds(call))
    return {name: statistics.median(values) for name, values in times.items()}


def paired_processes(
    commands: Mapping[str, Sequence[str]], repeats: int, warm_up: int = 1
) -> dict[str, list[dict[str, Any]]]:
    """Each command in fresh processes, in turns, after `warm_up` runs that warm the page cache.

    A result is what the process printed as its last line, a JSON object if it starts with a brace, and `wall`: the
    seconds from start to end.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for turn in range(warm_up + repeats):
        for name, command in commands.items():
            start = time.perf_counter()
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment())
            wall = time.perf_counter() - start
            if done.returncode:
                raise SystemExit(f"{name} failed (its message is above)")
            last = (done.stdout.strip().splitlines() or [""])[-1]
            if turn >= warm_up:
                results[name].append({"wall": wall, **(json.loads(last) if last.startswith("{") else {})})
    return results


def median(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def environment() -> dict[str, str]:
    """Nobody looks for anything online."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TQDM_DISABLE": "1"}


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """A meta-device model with random weights that keep activations near 1, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                p.normal_(0.0, p[0].numel() ** -0.5, generator=generator)
            else:
                p.fill_(1.0 if name.endswith("weight") else 0.0)
    return model.requires_grad_(False).eval()


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| question | contender | median | eyesel is |", "|---|---|---:|---:|"]
    last = None
    for row in rows:
        better = "" if row.eyesel is None else f"{row.eyesel:.2f}x"
        lines.append(f"| {row.question if row.question != last else ''} | {row.contender} | {row.value} | {better} |")
        last = row.question
    return "\n".join(lines)


Benchmark = Callable[[Path, int], list[Row]]


def main(benchmarks: Mapping[str, Benchmark], description: str | None, write: bool = False) -> None:
    """Run and print the tables; with --write, or `write`, they go into results.md besides, each when it is finished."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each contender (default 3)")
    parser.add_argument("--scratch", type=Path, help="where random weights are kept; default: a temporary folder")
    if not write:
        parser.add_argument("--write", action="store_true", help="put the table into benchmarks/results.md")
    arguments = parser.parse_args()
    print(results.machine())
    with tempfile.TemporaryDirectory() as temporary:
        scratch = arguments.scratch or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        for name, benchmark in benchmarks.items():
            start = time.perf_counter()
            text = table(benchmark(scratch, arguments.repeats))
            print(f"\n{name} ({time.perf_counter() - start:.0f} s)\n\n{text}", flush=True)
            if write or arguments.write:
                count = arguments.repeats
                runs = f"medians of {count} runs taken in turns" if count > 1 else "one run each"
                how = f"`python -m benchmarks.{name}`, {runs}"
                results.write(name, sys.modules[benchmark.__module__].__doc__ or "", how, text)
