"""Runs `probe` for a model and gathers what it finds until its time is over."""

import json
import os
import platform
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from eyesel.compare.facts import Facts

CAPABILITIES = {
    "classifier": ("classify", "embed", "embed patches", "attention maps", "maps of a class", "other picture sizes"),
    "painter": (
        "text to image",
        "negative prompts",
        "weighted words",
        "image to image",
        "inpainting",
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
    """What was measured by name (seconds, bytes, pictures a second); a name that is missing is unknown."""

    figures: dict[str, float] = field(default_factory=dict)
    device: str | None = None
    dtype: str | None = None
    capabilities: dict[str, Capability] = field(default_factory=dict)
    note: str | None = None  # why something is missing


def measure(facts: Facts, device: str = "auto", precision: str = "auto", seconds: float = 120) -> Measured:
    """Load, time and try a model in a fresh process, which is stopped after so many `seconds`."""
    command = [sys.executable, "-m", "eyesel.compare.probe", facts.kind, str(facts.path), device, precision]
    result = Measured(capabilities={name: Capability(None) for name in CAPABILITIES[facts.kind]})
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()))  # a full pipe would stop it
        reader.start()
        for line in process.stdout or ():
            if line.startswith("{"):
                _take(result, json.loads(line))
        reader.join()
        timer.cancel()
    if late.is_set():
        result.note = f"stopped after {seconds:g} s (--time-limit)"
    elif process.returncode:
        last = errors[-1].strip()[:200] if errors else "no message"
        result.note = f"the process ended with code {process.returncode}: {last}"
    return result


def _take(result: Measured, finding: dict[str, Any]) -> None:
    if "capability" in finding:
        result.capabilities[finding["capability"]] = Capability(finding["can"], finding["detail"])
        return
    for name, value in finding.items():
        if name in ("device", "dtype"):
            setattr(result, name, value)
        else:
            result.figures[name] = value


def machine() -> str:
    """The processor, its threads, and torch's version."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} threads, torch {torch.__version__}"
