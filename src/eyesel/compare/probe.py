"""One model in a process of its own: loaded, timed, and every capability tried. Prints a line of JSON for each finding.

    python -m eyesel.compare.probe classifier tiny cpu auto

A process of its own has a peak of memory of its own, and can be stopped when its time is over. It does what it is told
by the lines of its input, `time` or `try`, so that two of them can be timed in turns; each answer ends with `{}`.
"""

import itertools
import json
import resource
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from eyesel.classifier import ImageClassifier
from eyesel.compare.capabilities import classifier_probes, noise, painter_probes
from eyesel.errors import EyeselError
from eyesel.stable_diffusion import StableDiffusion

CALLS = 3  # of a classifier in a round, whose median is taken
STEPS = 4  # of a painter in a round; the first, which also encodes the prompt, does not count


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
    tell()
    for line in sys.stdin:
        if line.strip() == "time":
            (time_classifier if kind == "classifier" else time_painter)(model)
            tell(peak_bytes=peak())
        else:
            try_all(classifier_probes(model) if kind == "classifier" else painter_probes(model))
        tell()


def tell(**finding: object) -> None:
    print(json.dumps(finding), flush=True)


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts what the parent had when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def time_classifier(model: ImageClassifier) -> None:
    """Pictures a second, preprocessing included, one and eight at a time."""
    height, width = model.model.config.image_size
    for count in (1, 8):
        pictures: list[Any] = [noise(width, height, i) for i in range(count)]
        run = model.classify if model.model.config.classes else model.embed
        times = [time.perf_counter()]
        for _ in range(CALLS):
            run(pictures)
            times.append(time.perf_counter())
        tell(**{f"images_per_second_{count}": count / median_step(times)})


def time_painter(model: StableDiffusion) -> None:
    """Seconds of a guided step of one picture in the size that it was trained at."""
    times = []
    for _ in model.steps("a picture", steps=STEPS, guidance=5.0, solver="euler", seed=0):
        times.append(time.perf_counter())
    tell(step_seconds=median_step(times))


def median_step(times: list[float]) -> float:
    return statistics.median(after - before for before, after in itertools.pairwise(times))


def try_all(probes: dict[str, Any]) -> None:
    for what, attempt in probes.items():
        try:
            found, detail = attempt(), None
        except EyeselError as error:
            found, detail = False, str(error)
        tell(capability=what, can=bool(found), detail=found if isinstance(found, str) else detail)


if __name__ == "__main__":
    main(*sys.argv[1:])
