"""What is left of a run of the classifier: a model that others open, how good it is, and pictures of that."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

from eyesel.classifier import ImageClassifier
from eyesel.models.vit import ViT
from eyesel.train.adapters import save_adapter
from eyesel.train.card import table, write_card
from eyesel.train.judged import Judged, each_class, save_mistakes
from eyesel.train.monitor import read_metrics
from eyesel.train.output import METRICS
from eyesel.train.plots import plot_confusion, plot_curves
from eyesel.train.splits import Splits
from eyesel.weights.card import read_card
from eyesel.weights.hub import resolve

if TYPE_CHECKING:
    from eyesel.train.classifier import ClassifierSettings

_WHOLE = ".finished"
_SHOWN = (
    *("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("lr_scheduler_type", "warmup_steps", "weight_decay", "label_smoothing_factor", "seed", "bf16", "fp16"),
)


def write_classifier(
    folder: Path,
    trained: ImageClassifier,
    model: ViT,
    splits: Splits,
    judged: Mapping[str, Judged],
    results: Mapping[str, Mapping[str, float]],
    base: str,
    tune: str,
    args: TrainingArguments,
    settings: "ClassifierSettings",
) -> None:
    """`model` is what was trained, with its LoRA where there is one; `judged` is by split, `results` by prefix."""
    whole = folder / _WHOLE
    shutil.rmtree(whole, ignore_errors=True)
    trained.save(whole, settings.format)
    for path in whole.iterdir():
        path.replace(folder / path.name)
    whole.rmdir()
    if tune == "lora" and settings.format == "transformers":
        save_adapter(model, folder / "adapter", base)
    plot_curves(folder / "curves.png", read_metrics(folder / METRICS), {"eval_accuracy": "validation accuracy"})
    name = "test" if "test" in judged else "validation"
    split = splits.test if splits.test is not None else splits.validation
    plot_confusion(folder / "confusion.png", judged[name].confusion, trained.labels)
    save_mistakes(folder / "mistakes.png", judged[name], split.pictures, split.names, trained.labels)
    _write_card(folder, trained, splits, judged, results, base, args, settings)


def _write_card(
    folder: Path,
    trained: ImageClassifier,
    splits: Splits,
    judged: Mapping[str, Judged],
    results: Mapping[str, Mapping[str, float]],
    base: str,
    args: TrainingArguments,
    settings: "ClassifierSettings",
) -> None:
    prefixes = {"validation": "eval", "test": "test"}
    rows = [
        [
            name,
            len(each.labels),
            f"{each.accuracy:.2%}",
            f"{each.f1:.4f}",
            f"{results[prefixes[name]][f'{prefixes[name]}_loss']:.4f}",
        ]
        for name, each in judged.items()
    ]
    last = "test" if "test" in judged else "validation"
    changed = {name: value for name, value in vars(settings).items() if value != getattr(type(settings), name)}
    chosen = {**{name: getattr(args, name) for name in _SHOWN}, "tune": settings.tune, **changed}
    licence = read_card(resolve(base, kind="classifier", offline=settings.offline)).licence
    write_card(
        folder,
        folder.absolute().name,
        {
            "license": licence,
            "library_name": settings.format,
            "pipeline_tag": "image-classification",
            "tags": ["image-classification", "vision", "vit", "eyesel"],
            "base_model": base if base.count("/") == 1 and not Path(base).exists() else None,
            "metrics": ["accuracy", "f1"],
        },
        {
            "": "",
            "Results": f"{table(('split', 'pictures', 'accuracy', 'F1 (mean)', 'loss'), rows)}\n\n"
            "![curves](curves.png)\n\n![confusion](confusion.png)\n\n![mistakes](mistakes.png)",
            f"Each class of the {last} split": table(
                ("class", "pictures", "found", "F1"), each_class(judged[last], trained.labels)
            ),
            "Training": f"{len(splits.train)} pictures of {len(trained.labels)} classes, from the base `{base}`"
            f"{f'; {len(splits.skipped)} that cannot be read were left out' if splits.skipped else ''}.\n\n"
            + table(("setting", "value"), ((name, _plain(value)) for name, value in chosen.items())),
            "Use": "```python\nimport eyesel\n\neye = eyesel.ImageClassifier.load("
            f'"{folder.absolute().name}")\neye.classify("picture.png")\n```\n\nPictures are prepared as '
            "`preprocessor_config.json` says, in training's validation as in use.",
        },
    )


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
