"""One model in a process of its own: loaded, timed, and every capability tried. Prints a line of JSON for each finding.

    python -m eyesel.compare.probe classifier tiny cpu auto

A process of its own has a peak of memory of its own, and can be stopped when its time is over.
"""

import itertools
import json
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from eyesel.classifier import ImageClassifier
from eyesel.compare.capabilities import classifier_probes, noise, painter_probes
from eyesel.errors import EyeselError
from eyesel.stable_diffusion import StableDiffusion

RUNS, STEPS = 5, 6


def main(kind: str, name: str, device: str, precision: str) -> None:
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    model: Any
    if kind == "classifier":
        model = ImageClassifier.load(name, device=device, precision=precision, offline=True)
        dtype = model.dtype

    else:
        model = StableDiffusion.load(name, device=device, precision=precision, offline=True)
        dtype = model.unet.conv_in.weight.dtype
    tell(load_seconds=time.perf_counter() - start, device=str(model.device), dtype=str(dtype).removeprefix("torch."))
    (time_classifier if kind == "classifier" else time_painter)(model)
    tell(peak_bytes=peak())
    probes = classifier_probes(model) if kind == "classifier" else painter_probes(model)
    for what, attempt in probes.items():
        try:
            told, found = None, attempt()
        except EyeselError as error:
            told, found = str(error), False
        tell(capability=what, can=bool(found), detail=found if isinstance(found, str) else told)


def tell(**finding: object) -> None:
    print(json.dumps(finding), flush=True)


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts what the parent had when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def median_seconds(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def time_classifier(model: ImageClassifier) -> None:
    """Pictures a second, preprocessing included, one and eight at a time."""
    height, width = model.model.config.image_size
    for count in (1, 8):
        pictures: list[Any] = [noise(width, height, i) for i in range(count)]
        run = model.classify if model.model.config.classes else model.embed
        tell(**{f"images_per_second_{count}": count / median_seconds(partial(run, pictures))})


def time_painter(model: StableDiffusion) -> None:
    """Seconds of a guided step of one picture in the size that it was trained at."""
    times = [time.perf_counter()]
    for _ in model.steps("a picture", steps=STEPS, guidance=5.0, solver="euler", seed=0):
        times.append(time.perf_counter())
    tell(step_seconds=statistics.median(after - before for before, after in itertools.pairwise(times[1:])))


if __name__ == "__main__":
    main(*sys.argv[1:])
