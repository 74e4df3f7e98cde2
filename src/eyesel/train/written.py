"""What is left of a run of the classifier: a model that others open, how good it is, and pictures of that."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import EvalResult
from torch import Tensor
from transformers import TrainingArguments

from eyesel.classifier import ImageClassifier
from eyesel.train.adapters import save_adapter
from eyesel.train.card import table, write_card
from eyesel.train.classifier_settings import ClassifierSettings
from eyesel.train.judged import Judged, each_class, save_mistakes
from eyesel.train.monitor import read_metrics
from eyesel.train.output import METRICS
from eyesel.train.plots import plot_confusion, plot_curves
from eyesel.train.splits import Splits
from eyesel.weights.card import read_card
from eyesel.weights.hub import resolve

_WHOLE = ".finished"
_SHOWN = (
    *("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "lr_scheduler_type"),
    *("warmup_steps", "weight_decay", "label_smoothing_factor", "seed", "bf16", "fp16"),
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """`state` are the weights that were trained, LoRA among them, and `trained` what came of it; `judged` is by
    split, `results` by the prefix of Trainer.
    """

    trained: ImageClassifier
    state: Mapping[str, Tensor]
    splits: Splits
    judged: Mapping[str, Judged]
    results: Mapping[str, Mapping[str, float]]
    base: str
    data: str
    args: TrainingArguments
    settings: ClassifierSettings

    def write(self, folder: Path) -> None:
        whole = folder / _WHOLE
        shutil.rmtree(whole, ignore_errors=True)
        try:
            self.trained.save(whole, self.settings.format)
        except BaseException:
            shutil.rmtree(whole, ignore_errors=True)
            raise
        for path in whole.iterdir():
            path.replace(folder / path.name)
        whole.rmdir()
        if self.settings.tune == "lora" and self.settings.format == "transformers":
            save_adapter(folder / "adapter", self.state, self.trained.model.config, self.settings.lora, self.base)
        labels, judged = self.trained.labels, self.judged[self._last]
        split = self.splits.validation if self.splits.test is None else self.splits.test
        plot_curves(folder / "curves.png", read_metrics(folder / METRICS), {"eval_accuracy": "validation accuracy"})
        plot_confusion(folder / "confusion.png", judged.confusion, labels)
        save_mistakes(folder / "mistakes.png", judged, split.pictures, split.names, labels)
        name = folder.absolute().name
        write_card(folder, name, self._front_matter(name), self._sections(name))

    @property
    def _last(self) -> str:
        """The split that the model has seen least of."""
        return "test" if "test" in self.judged else "validation"

    def _front_matter(self, name: str) -> dict[str, Any]:
        measured = {"accuracy": self.judged[self._last].accuracy, "f1": self.judged[self._last].f1}
        of_the_hub = self.base.count("/") == 1 and not Path(self.base).exists()
        return {
            "license": read_card(resolve(self.base, kind="classifier", offline=self.settings.offline)).licence,
            "library_name": self.settings.format,
            "pipeline_tag": "image-classification",
            "tags": ["image-classification", "vision", "vit", "eyesel"],
            "base_model": self.base if of_the_hub else None,
            "metrics": list(measured),
            "model_name": name,
            "eval_results": [
                EvalResult(
                    task_type="image-classification",
                    dataset_type="imagefolder",
                    dataset_name=PurePath(self.data).name,
                    dataset_split=self._last,
                    metric_type=metric,
                    metric_value=round(value, 6),
                )
                for metric, value in measured.items()
            ],
        }

    def _sections(self, name: str) -> dict[str, str]:
        skipped = len(self.splits.skipped)
        left_out = f"; {skipped} that cannot be read were left out" if skipped else ""
        return {
            "Results": f"{self._results()}\n\n![curves](curves.png)\n\n![confusion](confusion.png)\n\n"
            "![mistakes](mistakes.png)",
            f"Each class of the {self._last} split": table(
                ("class", "pictures", "found", "F1"), each_class(self.judged[self._last], self.trained.labels)
            ),
            "Training": f"{len(self.splits.train)} pictures of {len(self.trained.labels)} classes, from the base "
            f"`{self.base}`{left_out}.\n\n{self._settings()}",
            "Use": f'```python\nimport eyesel\n\neye = eyesel.ImageClassifier.load("{name}")\n'
            'eye.classify("picture.png")\n```\n\nPictures are prepared as `preprocessor_config.json` says, in '
            "training's validation as in use.",
        }

    def _results(self) -> str:
        prefixes = {"validation": "eval", "test": "test"}
        losses = {
            split: self.results[prefix][f"{prefix}_loss"] for split, prefix in prefixes.items() if split in self.judged
        }
        return table(
            ("split", "pictures", "accuracy", "F1 (mean)", "loss"),
            (
                (split, len(each.labels), f"{each.accuracy:.2%}", f"{each.f1:.4f}", f"{losses[split]:.4f}")
                for split, each in self.judged.items()
            ),
        )

    def _settings(self) -> str:
        length = "max_steps" if self.args.max_steps > 0 else "num_train_epochs"
        chosen = {name: getattr(self.args, name) for name in (length, *_SHOWN)}
        usual = ClassifierSettings()
        own = {name: value for name, value in vars(self.settings).items() if value != getattr(usual, name)}
        rows = {**chosen, "tune": self.settings.tune, **own}
        return table(("setting", "value"), ((name, _plain(value)) for name, value in rows.items()))


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
