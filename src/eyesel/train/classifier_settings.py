"""How a classifier is fine-tuned: the settings of its own, and Trainer's as the recipe has them."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from eyesel.errors import SettingError
from eyesel.fields import Count, check_fields
from eyesel.train.adapters import Lora
from eyesel.train.arguments import training_arguments
from eyesel.train.augment import Augmentation
from eyesel.weights.vit_save import check_format

# huggingface.co/amunchet/rorshark-vit-base: run_image_classification.py of transformers with these.
RECIPE: dict[str, Any] = {
    "learning_rate": 2e-5,
    "num_train_epochs": 5.0,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "seed": 1337,
    "lr_scheduler_type": "linear",
    "logging_strategy": "steps",
    "logging_steps": 10,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 3,
    "load_best_model_at_end": True,
    "metric_for_best_model": "accuracy",
    "report_to": "none",
    "restore_callback_states_from_checkpoint": True,
}

_MEASURES = ("accuracy", "f1", "loss")
_FREE = ("offline", "strict", "format")  # no weight depends on them
_ONLY_WITH = {  # settings that do nothing where another is not what it has to be
    "tune lora": ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets"),
    "rand_augment": ("rand_magnitude",),
}


@dataclass(frozen=True)
class ClassifierSettings:
    """What is not a field of TrainingArguments.

    `tune`: full, head (a linear probe), last-N or lora. `validation_share` of each class is held back where the data
    have no validation split. `class_weights` weighs classes by the inverse of how many pictures they have.
    `early_stopping` is after how many evaluations without a better one to stop, 0 for never; `average` the decay of an
    average of the weights (EMA), None for none. With `strict`, a picture that cannot be read stops the run. `format` is
    that of the output: transformers or timm.
    """

    tune: str = "full"
    image_size: int | None = None
    validation_share: float = 0.15
    crop: float = 0.08
    flip: bool = True
    rand_augment: Count = 0
    rand_magnitude: Count = 9
    mixup: float = 0.0
    cutmix: float = 0.0
    class_weights: bool = False
    early_stopping: Count = 0
    average: float | None = None
    lora_rank: int = 16
    lora_alpha: float = 16.0
    lora_dropout: float = 0.1
    lora_targets: tuple[str, ...] = ("to_q", "to_v")
    image_column: str | None = None
    label_column: str | None = None
    strict: bool = False
    format: str = "transformers"
    offline: bool = False

    def __post_init__(self) -> None:
        check_fields(self, SettingError)
        check_format(self.format)
        if not re.fullmatch(r"full|head|last-[1-9]\d*|lora", self.tune):
            raise SettingError(f"tune is {self.tune!r}; it is full, head, last-N (for example last-2) or lora.")
        if not 0 < self.validation_share < 1:
            raise SettingError(f"validation_share is {self.validation_share:g}; it must lie between 0 and 1.")
        if self.average is not None and not 0 < self.average < 1:
            raise SettingError(f"average is {self.average:g}; it is a decay between 0 and 1, for example 0.999.")
        _ = self.augmentation, self.lora  # which check what is theirs
        there = {"tune lora": self.tune == "lora", "rand_augment": self.rand_augment > 0}
        for field in fields(self):
            needed = next((other for other, names in _ONLY_WITH.items() if field.name in names), None)
            if needed and not there[needed] and getattr(self, field.name) != field.default:
                raise SettingError(f"{field.name} does nothing without {needed}: leave it out, or say both.")

    def record(self) -> dict[str, Any]:
        """What a run that goes on must have been begun with."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(self.crop, self.flip, self.rand_augment, self.rand_magnitude, self.mixup, self.cutmix)

    @property
    def lora(self) -> Lora:
        return Lora(self.lora_rank, self.lora_alpha, self.lora_dropout, self.lora_targets)


NAMES = tuple(field.name for field in fields(ClassifierSettings))


def classifier_arguments(output: str | Path, overrides: Mapping[str, Any]) -> TrainingArguments:
    """TrainingArguments of the recipe, but for what `overrides` says."""
    workers = 4 if torch.cuda.is_available() else 0
    loading = {
        "dataloader_num_workers": workers,
        "dataloader_persistent_workers": workers > 0,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    measure = overrides.get("metric_for_best_model")
    if measure is not None and str(measure).removeprefix("eval_") not in _MEASURES:
        raise SettingError(f"metric_for_best_model is {measure!r}; it must be one of {', '.join(_MEASURES)}.")
    best = {"greater_is_better": str(measure).removeprefix("eval_") != "loss"}
    return training_arguments(output, {**RECIPE, **loading, **best}, overrides, NAMES)


def check_together(args: TrainingArguments, settings: ClassifierSettings) -> None:
    """What Trainer would say in the middle of a run."""
    if settings.early_stopping and args.eval_strategy == "no":
        raise SettingError("early_stopping needs evaluations, and eval_strategy is no: leave one of them out.")
