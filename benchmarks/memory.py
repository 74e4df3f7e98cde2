"""Seconds and peak memory of large pictures, beside diffusers: the autoencoder's decoder and a step of the UNet.

Each contender is a process of its own; what is given is its peak of resident memory, weights and libraries included.
Weights are random, of the sizes of SD 1.5.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.measure import Row, main, median, paired_processes

TITLES = {"decode": "Decode a picture", "unet": "A guided step of the UNet"}
PLAN = (
    ("decode", "bfloat16", 512, ("eyesel", "diffusers", "diffusers-tiled")),
    ("decode", "bfloat16", 1024, ("eyesel", "diffusers", "diffusers-tiled")),
    ("decode", "bfloat16", 2048, ("eyesel", "diffusers-tiled")),  # without tiles diffusers takes well over 16 GB
    ("decode", "float32", 2048, ("eyesel",)),
    ("unet", "bfloat16", 512, ("eyesel", "diffusers")),
    ("unet", "bfloat16", 1024, ("eyesel", "diffusers")),
)


def decoder(who: str, dtype: torch.dtype) -> Callable[[torch.Tensor], object]:
    if who == "eyesel":
        from eyesel.models.autoencoder import Autoencoder, AutoencoderConfig
        from eyesel.weights.load import build

        model = build(lambda: Autoencoder(AutoencoderConfig()))
        return filled(model, dtype, channels_last=True).decode
    import diffusers

    with torch.device("meta"):
        theirs = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    theirs = filled(theirs, dtype)
    if who == "diffusers-tiled":
        theirs.enable_tiling()
    return theirs.decode


def unet(who: str, dtype: torch.dtype) -> Callable[[torch.Tensor], object]:
    context, t = torch.randn(2, 77, 768).to(dtype), torch.tensor([500.0, 500.0])
    if who == "eyesel":
        from eyesel.models.unet import UNet, UNetConfig
        from eyesel.weights.load import build

        model = filled(build(lambda: UNet(UNetConfig())), dtype, channels_last=True)
    else:
        import diffusers

        from benchmarks.unet_step import SD15

        with torch.device("meta"):
            theirs = diffusers.UNet2DConditionModel(**SD15)
        model = filled(theirs, dtype)
    return lambda latents: model(latents.repeat(2, 1, 1, 1), t, context)


def filled(model: torch.nn.Module, dtype: torch.dtype, channels_last: bool = False) -> torch.nn.Module:
    """Random weights, one tensor at a time, so that filling leaves no peak of its own."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        for name, p in list(module._parameters.items()):
            if p is None:
                continue
            if p.dim() > 1:
                weight = torch.randn(p.shape, generator=generator) * p[0].numel() ** -0.5
            else:
                weight = torch.ones(p.shape) if name == "weight" else torch.zeros(p.shape)
            layout = torch.channels_last if channels_last and p.dim() == 4 else torch.contiguous_format
            module._parameters[name] = torch.nn.Parameter(weight.to(dtype, memory_format=layout), requires_grad=False)
    return model.eval()


def one(what: str, who: str, dtype: str, side: int) -> None:
    """In a process of its own: prints seconds and gigabytes."""
    kind = getattr(torch, dtype)
    work = {"decode": decoder, "unet": unet}[what](who, kind)
    latents = torch.randn(1, 4, side // 8, side // 8, generator=torch.Generator().manual_seed(0)).to(kind)
    with torch.inference_mode():
        start = time.perf_counter()
        work(latents)
        took = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": took, "peak": peak}))


def run(scratch: Path, repeats: int) -> list[Row]:
    rows = []
    for what, dtype, side, contenders in PLAN:
        command = [sys.executable, "-m", "benchmarks.memory", "--one", what]
        results = paired_processes({who: [*command, who, dtype, str(side)] for who in contenders}, repeats, warm_up=0)
        ours = median(results["eyesel"], "peak")
        for who in contenders:
            peak, seconds = (median(results[who], key) for key in ("peak", "seconds"))
            question = f"{TITLES[what]}, {side}x{side}, {dtype}"
            better = None if who == "eyesel" else peak / ours
            rows.append(Row(question, who, f"{seconds:.1f} s, peak {peak:.2f} GB", better))
    return rows


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "--one" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--one", nargs=4)
        what, who, dtype, side = parser.parse_args().one
        one(what, who, dtype, int(side))
    else:
        main({"memory": run}, __doc__)
