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

SIDES = (512, 1024, 2048)
DECODERS = ("eyesel", "diffusers", "diffusers-tiled")
UNETS = ("eyesel", "diffusers")


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
    for what, contenders, title in (
        ("decode", DECODERS, "Decode a picture"),
        ("unet", UNETS, "A guided step of the UNet"),
    ):
        for dtype in ("bfloat16", "float32") if what == "decode" else ("bfloat16",):
            for side in SIDES:
                command = [sys.executable, "-m", "benchmarks.memory", "--one", what]
                commands = {who: [*command, who, dtype, str(side)] for who in contenders}
                results = paired_processes(commands, 1)
                ours = median(results["eyesel"], "peak")
                for who in contenders:
                    peak, seconds = (median(results[who], key) for key in ("peak", "seconds"))
                    better = None if who == "eyesel" else peak / ours
                    rows.append(
                        Row(f"{title} of {side}x{side}, {dtype}", who, f"{seconds:.1f} s, peak {peak:.2f} GB", better)
                    )
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
