"""A run as it is watched: a live line on the terminal, and `metrics.jsonl` for whoever reads it later."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from eyesel.images import written_whole
from eyesel.train.output import METRICS
from eyesel.train.speed import Speed

_SHOWN = {
    "loss": "loss {:.4f}",
    "eval_loss": "validation loss {:.4f}",
    "eval_accuracy": "accuracy {:.2%}",
    "learning_rate": "rate {:.1e}",
    "images_per_second": "{:.0f} images/s",
    "data_wait": "{:.1%} waiting",
}


class Monitor(TrainerCallback):
    """Every log of the trainer is a line of `metrics.jsonl` with its step; lines beyond the checkpoint that a run goes
    on from are dropped first, so that no step stands there twice.
    """

    def __init__(self, folder: Path, speed: Speed) -> None:
        self._path, self._speed = folder / METRICS, speed
        self._screen: _Screen | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        kept = [row for row in read_metrics(self._path) if row["step"] <= state.global_step]
        with written_whole(self._path) as fresh:
            fresh.write_text("".join(_line(row) for row in kept), encoding="utf-8")
        self._screen = _Screen(state.global_step, state.max_steps)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any) -> None:
        if not state.is_world_process_zero:
            return
        logs = objects["logs"]
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line({"step": state.global_step, **logs}))
        if self._screen is not None:
            self._screen.show(state.global_step, logs)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        if self._screen is not None:
            self._screen.advance(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back, however the run ended."""
        if self._screen is not None:
            self._screen.close()
            self._screen = None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line that was cut off by a kill is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, default=float) + "\n"


class _Screen:
    """On stderr: a bar with the last numbers where a person looks, and a line an evaluation; else a line a log."""

    def __init__(self, step: int, steps: int) -> None:
        self._first, self._steps, self._began = step, steps, time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                BarColumn(8),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[words]}", markup=False),
            )
            self._bar = Progress(*columns, console=Console(stderr=True, highlight=False))
            self._task = self._bar.add_task("", total=steps, completed=step, words="")
            self._bar.start()

    def advance(self, step: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def show(self, step: int, logs: dict[str, Any]) -> None:
        words = "  ".join(shown.format(logs[name]) for name, shown in _SHOWN.items() if name in logs)
        if not words:
            return
        if self._bar is None:
            print(f"step {step}/{self._steps}  {words}{self._left(step)}", file=sys.stderr, flush=True)
        elif "loss" in logs:
            self._bar.update(self._task, words=words)
        else:
            self._bar.console.print(f"step {step}/{self._steps}  {words}")

    def _left(self, step: int) -> str:
        done, passed = step - self._first, time.monotonic() - self._began
        return f"  {max((self._steps - step) * passed / done, 1):.0f} s left" if done and step < self._steps else ""

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
