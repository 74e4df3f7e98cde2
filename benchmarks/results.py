"""results.md: a section for each benchmark, written by the run that measured it."""

import platform
import re
from importlib.metadata import version
from pathlib import Path

import torch

FILE = Path(__file__).parent / "results.md"
ORDER = (
    *("vit", "unet_step", "loading", "cold_start", "folders", "search"),
    *("training", "memory", "style_cost", "serving", "soak", "ray_replicas"),
)


def write(name: str, doc: str, how: str, text: str) -> None:
    """Put what was measured into the section `name`, in place of an earlier run; the others stay.

    `doc` is the module's docstring, whose first paragraph says what is measured, `how` the command and its repeats.
    """
    intro, *parts = re.split(r"^## ", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = {part.split("\n")[0]: part.strip() + "\n\n" for part in parts}
    about = doc.strip().split("\n\n")[0]
    sections[name] = f"{name}\n\n{about}\n\n{how}; {machine()}.\n\n{text.strip()}\n\n"
    ordered = [sections[each] for each in sorted(sections, key=ORDER.index)]
    FILE.write_text("## ".join([intro, *ordered]).rstrip() + "\n", encoding="utf-8")


def machine() -> str:
    """The CPU, its threads, and the versions that were compared."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0] if models else name
    native = "native" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"
    packages = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "diffusers"))
    return (
        f"{name}, {torch.get_num_threads()} threads, {native} bfloat16; Python {platform.python_version()}, {packages}"
    )
