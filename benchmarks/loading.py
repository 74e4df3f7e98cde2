"""Seconds and memory to load an SD 1.5 UNet (860M parameters) from a float16 file, beside diffusers and a pickle.

Each load is a process of its own, with the file in the page cache. Its peak is the highest resident memory, mapped
pages of the file included, until every weight has been read once, less what was resident before the load.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from benchmarks.measure import Row, main, median, paired_processes, seconds
from benchmarks.unet_step import SD15, folder, open_unet

WEIGHTS, PICKLE = "diffusion_pytorch_model.safetensors", "unet.bin"
SMALL = {**SD15, "block_out_channels": (32, 32, 32, 32)}


def resident(key: str) -> int:
    """Bytes resident now (VmRSS) or at most since the last reset (VmHWM), Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"no {key} in /proc/self/status")


def load(contender: str, path: Path, precision: str) -> Any:
    if contender == "eyesel":
        return open_unet(path, "file" if precision == "float16" else precision)
    if contender == "diffusers":
        return UNet2DConditionModel.from_pretrained(path, torch_dtype=getattr(torch, precision))
    return torch.load(path / PICKLE, map_location="cpu")


def child(contender: str, small: Path, path: Path, precision: str) -> None:
    load(contender, small, precision)  # what is imported late is imported before the clock starts
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    kept: list[Any] = []
    took = seconds(lambda: kept.append(load(contender, path, precision)))
    tensors = kept[0].parameters() if isinstance(kept[0], torch.nn.Module) else kept[0].values()
    read = seconds(lambda: [tensor.sum() for tensor in tensors])
    print(json.dumps({"load": took, "read": took + read, "peak": resident("VmHWM") - before}))


def run(scratch: Path, repeats: int) -> list[Row]:
    small, path = folder(scratch, "small-unet", SMALL), folder(scratch)
    for each in (small, path):
        if not (each / PICKLE).is_file():
            torch.save(load_file(each / WEIGHTS), each / PICKLE)
    size = (path / WEIGHTS).stat().st_size
    rows = []
    for precision in ("float16", "bfloat16"):
        contenders = ("eyesel", "diffusers", "pickle") if precision == "float16" else ("eyesel", "diffusers")
        runs = paired_processes(
            {
                name: [sys.executable, "-m", "benchmarks.loading", "child", name, str(small), str(path), precision]
                for name in contenders
            },
            repeats,
        )
        ours = median(runs["eyesel"], "load")
        for name in contenders:
            took, read, peak = (median(runs[name], key) for key in ("load", "read", "peak"))
            rows.append(
                Row(
                    f"Load an SD 1.5 UNet, float16 file to {precision}",
                    {"pickle": "torch.load of a pickle"}.get(name, name),
                    f"{took:.3f} s, peak {peak / size:.2f}x the file (and read once: {read:.2f} s)",
                    None if name == "eyesel" else took / ours,
                )
            )
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
    else:
        main({"loading": run}, __doc__)
