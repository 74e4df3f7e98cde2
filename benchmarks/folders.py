"""Pictures a second of a whole folder, from JPEG files to labels, beside the network alone; memory for ten times more.

The rate is that of a ViT-B/16 of random weights over JPEGs of 640 x 480 pixels. Memory is the peak of a process that
classifies small pictures with the bundled model, above what was resident when the model had been loaded.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.loading import resident
from benchmarks.measure import Row, main, median, paired, paired_processes
from benchmarks.vit import folder as vit_folder
from eyesel import ImageClassifier, open_image

PICTURES, SIZE, BATCH = 300, (640, 480), 8
FEW, MANY = 2_000, 20_000


def jpeg(size: tuple[int, int], seed: int) -> bytes:
    """Something as hard to decode as a photo: smooth noise, some of it fine."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (size[1] // 40 + 1, size[0] // 40 + 1, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(float)
    pixels += rng.normal(0, 6, pixels.shape)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def pictures(scratch: Path, count: int, size: tuple[int, int], different: int) -> Path:
    """A folder of `count` JPEGs, among them so many different ones."""
    path = scratch / f"{count}-pictures"
    if not path.is_dir():
        path.mkdir()
        files = [jpeg(size, seed) for seed in range(different)]
        for i in range(count):
            (path / f"{i:06}.jpg").write_bytes(files[i % different])
    return path


def child(path: Path) -> None:
    eye = ImageClassifier.load("tiny")
    eye.classify(next(path.iterdir()))  # what is imported late is imported before the count starts
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    count = sum(answer.value is not None for answer in eye.classify_many(path))
    print(json.dumps({"count": count, "peak": resident("VmHWM") - before}))


def run(scratch: Path, repeats: int) -> list[Row]:
    eye = ImageClassifier.load(vit_folder(scratch))
    path = pictures(scratch, PICTURES, SIZE, PICTURES)
    pixels = torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(eye.device, eye.dtype)

    def network() -> None:
        with torch.inference_mode():
            for _ in range(PICTURES // BATCH):
                eye.model(pixels).cpu()

    def classified() -> None:
        assert sum(1 for _ in eye.classify_many(path, batch_size=BATCH)) == PICTURES

    def decoded() -> None:
        for file in path.iterdir():
            eye.transform([open_image(file)])

    took = paired(
        {"the network alone": network, "the folder": classified, "decoding alone, one thread": decoded}, repeats
    )
    alone = took["the network alone"] / (PICTURES // BATCH * BATCH)
    rates = {
        name: s / (PICTURES // BATCH * BATCH if name == "the network alone" else PICTURES) for name, s in took.items()
    }
    question = f"{PICTURES} JPEGs of {SIZE[0]}x{SIZE[1]}, ViT-B/16"
    rows = [Row(question, name, f"{1 / s:.1f} pictures/s ({alone / s:.0%})") for name, s in rates.items()]
    peaks = paired_processes(
        {
            str(count): [
                sys.executable,
                "-m",
                "benchmarks.folders",
                "child",
                str(pictures(scratch, count, (64, 64), 50)),
            ]
            for count in (FEW, MANY)
        },
        max(repeats // 2, 1),
    )
    return rows + [
        Row("Memory to classify a folder", f"{count:,} pictures", f"{median(peaks[str(count)], 'peak') / 2**20:.0f} MB")
        for count in (FEW, MANY)
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(Path(sys.argv[2]))
    else:
        main({"folders": run}, __doc__)
