"""Seconds and memory of style transfer at SD 1.5's size, 512x512, random weights, in its own precision.

A whole transfer, from two pictures to the finished third, in ten steps: the references' features are computed anew in
every step, in one batch with the result, or computed once and kept in half precision (`keep_features`).
"""

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from PIL import Image

from benchmarks.measure import Row, main, median, paired_processes, randomise
from benchmarks.unet_step import folder, open_unet
from eyesel.canvas import Canvas
from eyesel.conditioning import EncodedText
from eyesel.images import from_pil, to_pil
from eyesel.models.autoencoder import Autoencoder, AutoencoderConfig
from eyesel.stylize import Inversions, Parts, StyleSettings, Transfer

STEPS = 10  # that are timed
MORE = 50  # for which times and memory are computed from them
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "steps_offset": 1,
}


@torch.inference_mode()
def transfer(path: Path, keep: bool) -> dict[str, float]:
    """Seconds of all and of its parts, and the peak of memory in bytes."""
    unet = open_unet(path)
    dtype = unet.conv_in.weight.dtype
    with torch.device("meta"):
        autoencoder = Autoencoder(AutoencoderConfig())
    randomise(autoencoder).to(dtype, memory_format=torch.channels_last)
    pictures = [Image.effect_noise((512, 512), spread).convert("RGB") for spread in (40, 90)]

    def network(tap: object) -> object:
        def run(x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
            return unet(x.to(dtype), t, context.to(dtype), tap=tap).float()

        return run

    parts = Parts(
        unet.config,
        network,
        lambda texts: {text: EncodedText(torch.zeros(1, 77, 768), torch.zeros(768)) for text in texts},
        lambda images: autoencoder.encode(from_pil(images).to(dtype)).float(),
        SCHEDULER,
        False,
        "random",
        torch.device("cpu"),
    )
    canvas = Canvas(pictures[0], (0, 0, 512, 512), pictures[0])
    settings = StyleSettings(steps=STEPS, keep_features=keep)
    run = Transfer(parts, settings, canvas, pictures[1:], [1.0], None, 1.0, Inversions())
    begin = start = time.perf_counter()
    times = []
    for steps in (run.inverting(), run.solve()):
        for step in steps:
            times.append(time.perf_counter() - start)
            start, latents = time.perf_counter(), step.x
    to_pil(autoencoder.decode(run.matched(latents).to(dtype)).float())
    end = time.perf_counter()
    up, down = statistics.median(times[1:STEPS]), statistics.median(times[STEPS + 1 :])
    return {
        "whole": end - begin,
        "up": up,
        "down": down,
        "features": max(times[STEPS] - down, 0) / STEPS if keep else 0.0,
        "pictures": end - start + max(times[0] - up, 0),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }


def kept_bytes(steps: int) -> float:
    """What the features of a content and a style take: q of one, k and v of the other, in float16."""
    values = 3 * 640 * 32**2 + 3 * 320 * 64**2
    return 3 * values * 2 * steps


def run(scratch: Path, repeats: int) -> list[Row]:
    path = folder(scratch)
    names = {"computed anew": "again", "kept": "keep"}
    commands = {
        name: [sys.executable, "-m", "benchmarks.style_cost", "--transfer", how, "--unet", str(path)]
        for name, how in names.items()
    }
    rows = []
    for name, runs in paired_processes(commands, repeats).items():
        keys = ("whole", "up", "down", "features", "pictures", "peak")
        whole, up, down, features, pictures, peak = (median(runs, key) for key in keys)
        question = f"style transfer at 512x512, features {name}"
        rows += [
            Row(question, f"a whole transfer in {STEPS} steps", f"{whole:.0f} s"),
            Row(question, "its peak memory", f"{peak / 1e9:.1f} GB"),
            Row(question, "a step up, content and style", f"{up:.1f} s"),
            Row(question, "the features of a step", f"{features:.1f} s"),
            Row(question, "a step down", f"{down:.1f} s"),
            Row(question, "encoding two pictures, decoding one", f"{pictures:.1f} s"),
            Row(question, f"{MORE} steps (computed)", f"{MORE * (up + features + down) + pictures:.0f} s"),
            Row(question, "... another of the same pictures (computed)", f"{MORE * down + pictures:.0f} s"),
        ]
        if name == "kept":
            more = kept_bytes(MORE) - kept_bytes(STEPS)
            rows.append(Row(question, f"peak memory with {MORE} steps (computed)", f"{(peak + more) / 1e9:.1f} GB"))
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
