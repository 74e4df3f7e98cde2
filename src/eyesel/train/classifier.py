"""Fine-tuning of the eye on one's own labelled pictures, by the recipe of `rorshark-vit-base` unless told otherwise."""

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import EarlyStoppingCallback, TrainingArguments
from transformers.trainer_utils import EvalPrediction

from eyesel.classifier import ImageClassifier
from eyesel.models.vit import ViT
from eyesel.stylize.inversions import fingerprint
from eyesel.train.adapters import merged
from eyesel.train.batches import Augmented, Collate, Seen, needed_side
from eyesel.train.classifier_settings import NAMES, ClassifierSettings, check_together, classifier_arguments
from eyesel.train.judged import Judged, measures
from eyesel.train.labelled import read_labelled
from eyesel.train.output import Output, seen
from eyesel.train.pictures import KEEP, about_skipped
from eyesel.train.splits import Splits, make_splits
from eyesel.train.trainer import Trainer
from eyesel.train.tuning import ClassifierTask, for_classes, set_trainable
from eyesel.train.written import Outcome
from eyesel.weights.vit_transformers_format import written_config


def fit_classifier(
    data: str | Path,
    output: str | Path,
    base: str | Path = "tiny",
    *,
    resume: bool = False,
    force: bool = False,
    **settings: Any,
) -> ImageClassifier:
    """Fine-tune `base` on `data`, and open what came out, which lies in the folder `output`.

    `data` is what `labelled.read_labelled` reads, `base` what `ImageClassifier.load` opens; `settings` are fields of
    `ClassifierSettings` and of transformers' TrainingArguments. `resume` goes on with a run that was stopped, `force`
    replaces one. Raises `EyeselError`.
    """
    own = {name: settings.pop(name) for name in NAMES if name in settings}
    args, own_settings = classifier_arguments(output, settings), ClassifierSettings(**own)
    train_classifier(data, args, str(base), own_settings, resume, force)
    return ImageClassifier.load(output)


def train_classifier(
    data: str | Path,
    args: TrainingArguments,
    base: str,
    settings: ClassifierSettings,
    resume: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """The same from ready arguments; gives the metrics, in every process of a run."""
    first = args.process_index == 0
    check_together(args, settings)
    began = ImageClassifier.load(
        base, image_size=settings.image_size, device="cpu", precision="float32", offline=settings.offline
    )
    size = began.transform.output_size or began.model.config.image_size
    read = read_labelled(data, settings.image_column, settings.label_column, settings.offline)
    augmentation = settings.augmentation
    side = needed_side(began.transform, augmentation, size)
    splits = make_splits(read, settings.validation_share, args.seed, settings.strict, side)
    model, classes, about_head = for_classes(began, splits.classes, args.seed)
    if list(splits.classes) != classes:
        splits = splits.ordered(classes)
    if settings.format == "transformers":
        written_config(model.config)  # raises now what it would raise in the end
    torch.manual_seed(args.seed)
    set_trainable(model, settings.tune, settings.lora)
    known = {
        "task": "classifier",
        "data": str(Path(data).expanduser().absolute()) if Path(data).exists() else str(data),
        "base": base,
        "weights": fingerprint([began.model]),
        "pictures": [
            seen(split.pictures.sources, zip(split.names, split.labels, strict=True))
            for split in (splits.train, splits.validation, splits.test)
            if split is not None
        ],
        "classes": list(classes),
    }
    output = Output.begin(args, {**known, **settings.record()}, resume, force, [data, base])
    if output.finished:
        return {}
    with output.kept():
        if first:
            for note in (*splits.notes, *about_skipped(splits.skipped), *([about_head] if about_head else [])):
                print(f"eyesel: note: {note}", file=sys.stderr)
        task = ClassifierTask(model, _weights(splits) if settings.class_weights else None, args.label_smoothing_factor)
        keep = KEEP - splits.train.pictures.size
        judging = {"validation": Seen(splits.validation, began.transform, keep)}
        if splits.test is not None:
            judging["test"] = Seen(splits.test, began.transform, keep - judging["validation"].size)
        trainer = Trainer(
            task,
            args,
            output,
            Augmented(splits.train, began.transform, size, augmentation, args.seed),
            Collate(began.transform, augmentation, len(classes), args.seed),
            judging["validation"],
            average=settings.average,
            callbacks=[EarlyStoppingCallback(settings.early_stopping)] if settings.early_stopping else [],
            compute_metrics=_metrics,
        )
        started = time.monotonic()
        result = trainer.fit()
        metrics = {**result.metrics, **trainer.speed.whole(), "train_seconds": round(time.monotonic() - started, 1)}
        judged = {}
        results: dict[str, dict[str, float]] = {"train": metrics}
        for name, prefix in (("validation", "eval"), ("test", "test")):
            if name in judging:
                predicted = trainer.predict(judging[name], metric_key_prefix=prefix)
                judged[name] = Judged(predicted.predictions, predicted.label_ids)  # type: ignore[arg-type]
                results[prefix] = dict(predicted.metrics or {})
        for prefix, values in results.items():
            trainer.save_metrics(prefix, values)
        trainer.save_state()
        state = {name.removeprefix("model."): tensor for name, tensor in trainer.trained().items()}
        if first:
            with torch.device("meta"):
                plain = ViT(model.config)
            plain.load_state_dict(merged(state, settings.lora) if settings.tune == "lora" else state, assign=True)
            trained = ImageClassifier(plain.eval(), began.transform, classes, name=str(output.folder))
            Outcome(trained, state, splits, judged, results, base, str(data), args, settings).write(output.folder)
            output.finish()
        trainer.accelerator.wait_for_everyone()
        return {name: value for values in results.values() for name, value in values.items()}


def _metrics(predicted: EvalPrediction) -> dict[str, float]:
    return measures(predicted.predictions, predicted.label_ids)  # type: ignore[arg-type]


def _weights(splits: Splits) -> Tensor:
    """(classes,): their mean over the pictures is 1."""
    counts = Counter(splits.train.labels)
    return torch.tensor([len(splits.train) / (len(splits.classes) * counts[i]) for i in range(len(splits.classes))])
