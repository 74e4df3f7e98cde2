"""Training steps of a classifier beside the stock Trainer with transformers' model: images a second, waiting for data.

Both fine-tune the same base on the same JPEG files with crops and flips, in float32, by the recipe's batch of 8; a step
is counted from asking for its batch to the end of the optimizer's work.
"""

import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from PIL import Image, ImageFilter

from benchmarks import vit
from benchmarks.measure import Row, main
from eyesel.train import fit_classifier
from eyesel.train.augment import Augmentation
from eyesel.train.speed import Speed
from eyesel.weights.hub import resolve

BATCH, CLASSES, EACH = 8, 4, 24
SETTINGS = {"learning_rate": 2e-5, "per_device_train_batch_size": BATCH, "seed": 1337, "logging_steps": 1}


def photographs(folder: Path) -> Path:
    """JPEG files of 500x375 pixels, blurred noise, in four class folders."""
    chance = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        for i in range(EACH):
            noise = chance.integers(0, 256, (375, 500, 3), dtype=np.uint8)
            picture = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))
            picture.save(folder / str(label) / f"{i}.jpg", quality=90)
    return folder


class Stock(transformers.Trainer):
    """The stock Trainer with a clock."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.speed, self.rows = Speed(), []  # type: ignore[var-annotated]
        super().__init__(*args, **options)

    def get_batch_samples(self, *args: Any) -> Any:
        self.speed.begin_step()
        found = super().get_batch_samples(*args)
        self.speed.data_came(BATCH)
        return found

    def log(self, logs: dict[str, float], *args: Any) -> None:
        self.speed.end_step()
        self.rows.append(self.speed.read())


def stock(data: Path, base: Path, steps: int, output: Path) -> list[dict[str, float]]:
    """As run_image_classification.py of transformers does it, with Pillow where that uses torchvision."""
    part = datasets.load_dataset("imagefolder", data_dir=str(data))["train"]
    processor = transformers.AutoImageProcessor.from_pretrained(base, backend="pil")
    size = processor.size["height"], processor.size["width"]
    augmentation, chance = Augmentation(), np.random.default_rng(0)

    def prepared(rows: dict[str, list[Any]]) -> dict[str, Any]:
        images = [augmentation.picture(image.convert("RGB"), size, 2, chance) for image in rows["image"]]
        return {"pixel_values": processor(images, return_tensors="pt")["pixel_values"], "labels": rows["label"]}

    model = transformers.AutoModelForImageClassification.from_pretrained(
        base, num_labels=CLASSES, ignore_mismatched_sizes=True
    )
    args = transformers.TrainingArguments(
        str(output), max_steps=steps, report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True,
        remove_unused_columns=False, dataloader_pin_memory=False, **SETTINGS,
    )  # fmt: skip
    trainer = Stock(model, args, train_dataset=part.with_transform(prepared))
    trainer.train()
    return [row for row in trainer.rows if row]


def eyesel(data: Path, base: str, steps: int, output: Path) -> list[dict[str, float]]:
    fit_classifier(
        data, output, base, force=output.exists(), max_steps=steps, use_cpu=True, save_strategy="no",
        eval_strategy="no", load_best_model_at_end=False, **SETTINGS,
    )  # fmt: skip
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [row for line in lines if "images_per_second" in (row := json.loads(line))]


def compared(contenders: dict[str, Callable[[], list[dict[str, float]]]], repeats: int) -> dict[str, dict[str, float]]:
    """Medians over the steps of all turns, the first step of each left out."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, train in contenders.items():
            rows[name] += train()[1:]
    return {
        name: {key: statistics.median(row[key] for row in each) for key in ("images_per_second", "data_wait")}
        for name, each in rows.items()
    }


def run(scratch: Path, repeats: int) -> list[Row]:
    transformers.utils.logging.set_verbosity_error()
    data = photographs(scratch / "photographs")
    rows = []
    for title, base, steps in (
        ("training the tiny classifier, batch 8", resolve("tiny", kind="classifier"), 16),
        ("training ViT-B/16, batch 8", vit.folder(scratch), 3),
    ):
        measured = compared(
            {
                "eyesel": partial(eyesel, data, str(base), steps, scratch / "ours"),
                "Trainer and transformers": partial(stock, data, base, steps, scratch / "theirs"),
            },
            repeats,
        )
        best = measured["eyesel"]["images_per_second"]
        for name, found in measured.items():
            value = f"{found['images_per_second']:.1f} images/s, {found['data_wait']:.1%} waiting for data"
            rows.append(Row(title, name, value, None if name == "eyesel" else best / found["images_per_second"]))
    return rows


if __name__ == "__main__":
    torch.manual_seed(0)
    main({"training": run}, __doc__ or "")
