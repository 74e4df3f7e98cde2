"""Seconds a step and memory of style transfer at SD 1.5's size, 512x512, random weights, in its own precision.

The references' features are computed anew in every step, in one batch with the result, or computed once and kept in
half precision (`keep_features`). Only the UNet is timed: encoding and decoding come to a few steps more.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch
from PIL import Image

from benchmarks.measure import Row, main, median, paired_processes
from benchmarks.unet_step import folder, open_unet
from eyesel.canvas import Canvas
from eyesel.conditioning import EncodedText
from eyesel.stylize import Inversions, Parts, StyleSettings, Transfer

STEPS = 2  # that are timed
WHOLE = 50
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "steps_offset": 1,
}


def transfer(path: Path, keep: bool) -> dict[str, float]:
    """Seconds of a step up, of one down, of computing the features of one, and the peak of memory in bytes."""
    unet = open_unet(path)
    generator = torch.Generator().manual_seed(0)
    pictures = [Image.new("RGB", (512, 512), colour) for colour in ("red", "blue")]

    def network(tap: object) -> object:
        def run(x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
            dtype = unet.conv_in.weight.dtype
            with torch.inference_mode():
                return unet(x.to(dtype), t, context.to(dtype), tap=tap).float()

        return run

    parts = Parts(
        unet.config,
        network,
        lambda texts: {text: EncodedText(torch.zeros(1, 77, 768), torch.zeros(768)) for text in texts},
        lambda images: torch.randn(len(images), 4, 64, 64, generator=generator),
        SCHEDULER,
        False,
        "random",
        torch.device("cpu"),
    )
    canvas = Canvas(pictures[0], (0, 0, 512, 512), pictures[0])
    settings = StyleSettings(steps=STEPS, keep_features=keep)
    run = Transfer(parts, settings, canvas, pictures[1:], [1.0], None, 1.0, Inversions())
    times = []
    for steps in (run.inverting(), run.solve()):
        start = time.perf_counter()
        for _ in steps:
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    up, down = times[STEPS - 1], times[-1]
    return {"up": up, "down": down, "features": max(times[STEPS] - down, 0) / STEPS if keep else 0.0, "peak": peak}


def kept_bytes() -> float:
    """What the features of a content and a style take, over all steps: q of one, k and v of the other, in float16."""
    values = 3 * 640 * 32**2 + 3 * 320 * 64**2
    return 3 * values * 2 * WHOLE


def run(scratch: Path, repeats: int) -> list[Row]:
    path = folder(scratch)
    names = {"computed anew": "again", "kept": "keep"}
    commands = {
        name: [sys.executable, "-m", "benchmarks.style_cost", "--transfer", how, "--unet", str(path)]
        for name, how in names.items()
    }
    rows = []
    for name, runs in paired_processes(commands, repeats).items():
        up, down, features, peak = (median(runs, key) for key in ("up", "down", "features", "peak"))
        more = kept_bytes() * (1 - STEPS / WHOLE) if name == "kept" else 0.0
        question = f"style transfer at 512x512, features {name}"
        rows += [
            Row(question, "a step up, content and style", f"{up:.1f} s"),
            Row(question, "a step down", f"{down:.1f} s"),
            Row(question, "the features of a step", f"{features:.1f} s"),
            Row(question, f"{WHOLE} steps, a first result (computed)", f"{WHOLE * (up + features + down):.0f} s"),
            Row(question, "... another of the same pictures", f"{WHOLE * down:.0f} s"),
            Row(question, f"peak memory with {WHOLE} steps", f"{(peak + more) / 1e9:.1f} GB"),
        ]
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--transfer", choices=("again", "keep"))
    parser.add_argument("--unet", type=Path)
    arguments, _ = parser.parse_known_args()
    if arguments.transfer:
        print(json.dumps(transfer(arguments.unet, arguments.transfer == "keep")))
    else:
        main({"style_cost": run}, __doc__ or "")
