"""Training steps of a classifier beside the stock Trainer with transformers' model: images a second, waiting for data.

Both fine-tune the same base on the same JPEG files with crops and flips, in float32, by the recipe's batch of 8; a step
is counted from asking for its batch to the end of the optimizer's work. Small pictures stay in memory; of large ones,
there is also what a set costs that memory has no room for.
"""

import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from PIL import Image

from benchmarks import vit
from benchmarks.measure import Row, main
from eyesel.train import fit_classifier, splits
from eyesel.train.augment import Augmentation
from eyesel.train.speed import Speed
from eyesel.weights.hub import resolve

BATCH, CLASSES, EACH = 8, 4, 25  # one of each class is held back, and whole batches are left
SETTINGS = {
    "learning_rate": 2e-5, "per_device_train_batch_size": BATCH, "seed": 1337, "logging_steps": 1,
    "save_strategy": "no",
}  # fmt: skip
Steps = list[dict[str, float]]


def photographs(folder: Path, size: tuple[int, int], different: int = 8) -> Path:
    """JPEG files in four class folders: blots of colour, and as much grain as makes 12 megapixels about 4 MB."""
    chance = np.random.default_rng(0)
    drawn = []
    for _ in range(different):
        blots = Image.fromarray(chance.integers(0, 256, (size[1] // 25, size[0] // 25, 3), dtype=np.uint8))
        grain = Image.merge("RGB", [Image.effect_noise(size, 60) for _ in range(3)])
        file = io.BytesIO()
        Image.blend(blots.resize(size, Image.Resampling.BICUBIC), grain, 0.1).save(file, "JPEG", quality=90)
        drawn.append(file.getvalue())
    for number in range(CLASSES * EACH):
        path = folder / str(number % CLASSES) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawn[number % different])
    return folder


class Stock(transformers.Trainer):
    """The stock Trainer with a clock."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.speed, self.steps = Speed(), []  # type: ignore[var-annotated]
        super().__init__(*args, **options)
        self.add_callback(_Ends(self.speed))

    def get_batch_samples(self, *args: Any) -> Any:
        self.speed.begin_step()
        found = super().get_batch_samples(*args)
        self.speed.data_came(BATCH)
        return found

    def log(self, logs: dict[str, float], *args: Any) -> None:
        self.steps.append(self.speed.read())


class _Ends(transformers.TrainerCallback):
    def __init__(self, speed: Speed) -> None:
        self._speed = speed

    def on_step_end(self, *args: Any, **objects: Any) -> None:
        self._speed.end_step()


def stock(data: Path, base: Path, steps: int, output: Path) -> Steps:
    """As run_image_classification.py of transformers does it, with Pillow where that uses torchvision."""
    part = datasets.load_dataset("imagefolder", data_dir=str(data))["train"].select(range(CLASSES * (EACH - 1)))
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
        str(output), max_steps=steps, report_to="none", disable_tqdm=True, use_cpu=True, remove_unused_columns=False,
        dataloader_pin_memory=False, **SETTINGS,
    )  # fmt: skip
    trainer = Stock(model, args, train_dataset=part.with_transform(prepared))
    trainer.train()
    return [step for step in trainer.steps if step]


def eyesel(data: Path, base: str, steps: int, output: Path, keep: int = splits.KEEP) -> Steps:
    usual, splits.KEEP = splits.KEEP, keep
    fit_classifier(
        data, output, base, force=output.exists(), max_steps=steps, use_cpu=True, eval_strategy="no",
        load_best_model_at_end=False, validation_share=1 / EACH, **SETTINGS,
    )  # fmt: skip
    splits.KEEP = usual
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [step for line in lines if "images_per_second" in (step := json.loads(line))]


def compared(question: str, contenders: dict[str, Callable[[], Steps]], repeats: int) -> list[Row]:
    """In turns, of all steps but the first of each turn: what eyesel, the first contender, does is set against each."""
    steps: dict[str, Steps] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, train in contenders.items():
            steps[name] += train()[1:]
    speeds = {name: speed(each) for name, each in steps.items()}
    best = speeds["eyesel"][0]
    return [
        Row(
            question,
            name,
            f"{rate:.1f} images/s, {wait:.1%} waiting for data",
            None if name == "eyesel" else best / rate,
        )
        for name, (rate, wait) in speeds.items()
    ]


def speed(steps: Sequence[dict[str, float]]) -> tuple[float, float]:
    """Images a second, and the share of the time that was spent waiting for data."""
    seconds = [BATCH / step["images_per_second"] for step in steps]
    waiting = sum(step["data_wait"] * took for step, took in zip(steps, seconds, strict=True))
    return BATCH * len(steps) / sum(seconds), waiting / sum(seconds)


def run(scratch: Path, repeats: int) -> list[Row]:
    transformers.utils.logging.set_verbosity_error()
    small = photographs(scratch / "photographs", (500, 375))
    large = photographs(scratch / "large", (4000, 3000))
    tiny, base = resolve("tiny", kind="classifier"), vit.folder(scratch)
    ours, theirs = scratch / "ours", scratch / "theirs"
    rows = []
    for title, model, data, steps in (
        ("training tiny, batch 8, pictures of 500x375", tiny, small, 25),
        ("training tiny, batch 8, pictures of 12 megapixels", tiny, large, 9),
        ("training ViT-B/16, batch 8, pictures of 500x375", base, small, 4),
        ("training ViT-B/16, batch 8, pictures of 12 megapixels", base, large, 4),
    ):
        contenders: dict[str, Callable[[], Steps]] = {"eyesel": partial(eyesel, data, str(model), steps, ours)}
        if data is large:
            contenders["eyesel, nothing held in memory"] = partial(eyesel, data, str(model), steps, ours, keep=0)
        contenders["Trainer and transformers"] = partial(stock, data, model, steps, theirs)
        rows += compared(title, contenders, repeats)
    return rows


if __name__ == "__main__":
    torch.manual_seed(0)
    main({"training": run}, __doc__ or "")
