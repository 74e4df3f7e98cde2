"""Validation prompts painted now and then, always from the same seeds: a sheet that grows by a row each time."""

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback

from eyesel.images import open_image, save_image
from eyesel.stable_diffusion import StableDiffusion
from eyesel.train.diffusion.task import PainterTask
from eyesel.train.ema import Average
from eyesel.train.speed import Speed
from eyesel.train.trainer import Trainer

FOLDER, SHEET = "samples", "samples.png"
ROWS = 5  # of a run, where nothing else is said
_NAME = re.compile(r"step-(\d+)-(\d+)\.png")
_CELL, _GAP, _LETTERS = 160, 8, 14


class Samples(TrainerCallback):
    """`painter` gives the painter as it is now trained. The random numbers of training are not touched."""

    def __init__(
        self,
        output: Path,
        painter: Callable[[], StableDiffusion],
        task: PainterTask,
        prompts: Sequence[str],
        every: int | None,
        seed: int,
        side: int,
    ) -> None:
        self._folder, self._sheet, self._painter, self._task = output / FOLDER, output / SHEET, painter, task
        self._prompts, self._every, self._seed, self._side = prompts, every, seed, side
        self._average: Average | None = None
        self._writers: list[TensorBoardCallback] = []
        self._speed: Speed | None = None

    def watch(self, trainer: Trainer) -> None:
        """Paint with the average of the weights, where there is one, and show TensorBoard what was painted."""
        self._average, self._speed = trainer.average, trainer.speed
        self._writers = [each for each in trainer.callback_handler.callbacks if isinstance(each, TensorBoardCallback)]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self._folder.mkdir(exist_ok=True)
        for path in self._folder.iterdir():
            found = _NAME.fullmatch(path.name)
            if found and int(found[1]) > state.global_step:  # of the steps that are made again
                path.unlink()
        if state.global_step == 0:
            self._paint(0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        every = self._every or max(state.max_steps // ROWS, 1)
        if state.is_world_process_zero and state.global_step % every == 0:
            self._paint(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        if state.is_world_process_zero and not (self._folder / _name(state.global_step, 0)).is_file():
            self._paint(state.global_step)

    def _paint(self, step: int) -> None:
        if self._speed is not None:
            self._speed.end_step()  # painting is no training
        with nullcontext() if self._average is None else self._average.applied(self._task):
            painter = self._painter()
            pictures = [
                painter.generate(prompt, seed=self._seed, size=(self._side, self._side)) for prompt in self._prompts
            ]
        for i, picture in enumerate(pictures):
            picture.save(self._folder / _name(step, i))
        draw_sheet(self._folder, self._prompts, self._sheet)
        for board in self._writers:
            for prompt, picture in zip(self._prompts, pictures, strict=True):
                if board.tb_writer is not None:
                    board.tb_writer.add_image(prompt, np.asarray(picture.image), step, dataformats="HWC")


def _name(step: int, number: int) -> str:
    return f"step-{step:06d}-{number}.png"


def draw_sheet(folder: Path, prompts: Sequence[str], path: Path) -> None:
    """All pictures of `folder`: a row a step, a column a prompt."""
    found = sorted(
        (int(match[1]), int(match[2]), each) for each in folder.iterdir() if (match := _NAME.fullmatch(each.name))
    )
    steps = sorted({step for step, _, _ in found})
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), _LETTERS)
    left = round(font.getlength(f"step {steps[-1]}")) + 2 * _GAP
    head = [_wrapped(prompt, font, _CELL) for prompt in prompts]
    top = max(map(len, head)) * (_LETTERS + 4) + 2 * _GAP
    size = (left + len(prompts) * (_CELL + _GAP), top + len(steps) * (_CELL + _GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, lines in enumerate(head):
        draw.multiline_text((left + i * (_CELL + _GAP), _GAP), "\n".join(lines), "black", font)
    for row, step in enumerate(steps):
        draw.text((_GAP, top + row * (_CELL + _GAP) + _CELL // 2), f"step {step}", "black", font)
    for step, number, file in found:
        if number < len(prompts):
            picture = open_image(file)
            scale = _CELL / max(picture.size)
            filter = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
            picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), filter)
            sheet.paste(picture, (left + number * (_CELL + _GAP), top + steps.index(step) * (_CELL + _GAP)))
    save_image(sheet, path)


def _wrapped(text: str, font: Any, width: int, most: int = 3) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1]} ..."]
