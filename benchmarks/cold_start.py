"""Seconds from the shell to the labels of a picture with a ViT-B/16 folder, beside a transformers pipeline."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Row, main, median, paired_processes
from benchmarks.vit import folder

PIPELINE = """
import sys
from transformers import pipeline
for found in pipeline("image-classification", model=sys.argv[1])(sys.argv[2]):
    print(found["label"], found["score"])
"""
# what the program `eyesel` does
COMMAND = "import sys; from eyesel.__main__ import main; sys.argv[0] = 'eyesel'; main()"


def run(scratch: Path, repeats: int) -> list[Row]:
    model, picture = folder(scratch), scratch / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)).save(picture)
    runs = paired_processes(
        {
            "eyesel classify": [sys.executable, "-c", COMMAND, "classify", str(picture), "--model", str(model)],
            "transformers pipeline": [sys.executable, "-c", PIPELINE, str(model), str(picture)],
            "import torch alone": [sys.executable, "-c", "import torch"],
        },
        repeats,
    )
    ours = median(runs["eyesel classify"], "wall")
    return [
        Row(
            "Cold start: classify one picture",
            name,
            f"{median(results, 'wall'):.2f} s",
            None if name == "eyesel classify" else median(results, "wall") / ours,
        )
        for name, results in runs.items()
    ]


if __name__ == "__main__":
    main({"cold_start": run}, __doc__)
