"""Seconds of one guided step of SD 1.5 at 512x512 (prompt and empty prompt as a batch of two), beside diffusers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import Row, main, paired, randomise
from eyesel.models.unet import UNet
from eyesel.weights import diffusers_format
from eyesel.weights.files import find_weights, open_tensors, read_json
from eyesel.weights.load import load

SD15 = {
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "sample_size": 64,
}


def folder(scratch: Path, name: str = "sd15-unet", config: Mapping[str, Any] = SD15) -> Path:
    """A diffusers folder of a UNet with random float16 weights: by default one of SD 1.5's size, 860M parameters."""
    path = scratch / name
    if not (path / "diffusion_pytorch_model.safetensors").is_file():
        with torch.device("meta"):
            model = diffusers.UNet2DConditionModel(**config)
        randomise(model.to(torch.float16)).save_pretrained(path)
    return path


def open_unet(path: Path, precision: str = "auto") -> UNet:
    """As a Stable Diffusion folder's UNet is opened by eyesel."""
    config = diffusers_format.unet_config(read_json(path / "config.json"))
    tensors = open_tensors(find_weights(path))
    return load(lambda _: UNet(config), tensors, diffusers_format.UNET, path, torch.device("cpu"), precision)


def run(scratch: Path, repeats: int) -> list[Row]:
    path = folder(scratch)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 64, 64, generator=generator)
    context = torch.randn(2, 77, 768, generator=generator)
    times = torch.tensor([500, 500])

    def step(model: torch.nn.Module) -> Callable[[], object]:
        dtype = next(model.parameters()).dtype
        x, prompt = latents.to(dtype), context.to(dtype)
        return lambda: model(x, times, prompt)

    def diffusers_step(dtype: torch.dtype | None = None) -> Callable[[], object]:
        # without a dtype, diffusers converts to float32
        options = {} if dtype is None else {"torch_dtype": dtype}
        return step(diffusers.UNet2DConditionModel.from_pretrained(path, **options))

    channels_last = diffusers.UNet2DConditionModel.from_pretrained(path, torch_dtype=torch.bfloat16)
    eyesel = step(open_unet(path))
    with torch.inference_mode():
        took = paired(
            {
                "eyesel, its default": eyesel,
                "diffusers, its default (float32)": diffusers_step(),
                "diffusers, bfloat16": diffusers_step(torch.bfloat16),
                "diffusers, bfloat16, channels-last": step(channels_last.to(memory_format=torch.channels_last)),
            },
            repeats,
        )
        parts = shares(eyesel)
    ours = took["eyesel, its default"]
    return [
        *(
            Row("SD 1.5 UNet, guided step at 512x512", name, f"{s:.2f} s", None if s == ours else s / ours)
            for name, s in took.items()
        ),
        *(Row("Where eyesel's step goes", name, f"{share:.0%}") for name, share in parts.items()),
    ]


# torch's names of the operations, each with what it calls
PARTS = {
    "convolutions": {"aten::conv2d"},
    "linear layers": {"aten::linear"},
    "attention": {"aten::baddbmm", "aten::bmm", "aten::_softmax", "aten::scaled_dot_product_attention"},
}


def shares(step: Callable[[], object]) -> dict[str, float]:
    """What part of a step's time goes where, by torch's profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    parts = {part: sum(e.cpu_time_total for e in events if e.key in names) / total for part, names in PARTS.items()}
    return parts | {"norms, activations, sums, copies": 1 - sum(parts.values())}


if __name__ == "__main__":
    main({"unet_step": run}, __doc__)
