"""Hugging Face's Trainer, made safe: whole checkpoints, exact resumption, and a sentence where something goes wrong."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import TrainOutput

from eyesel.errors import CheckpointError, EyeselError, OutputError, SettingError
from eyesel.train.checkpoints import STAGING, complete, last_checkpoint, prune, publish
from eyesel.train.draws import Draw, Shuffled
from eyesel.train.ema import Average
from eyesel.train.monitor import Monitor
from eyesel.train.output import Output
from eyesel.train.speed import Speed
from eyesel.train.task import Task

_STATE = "trainer_state.json"


class Trainer(transformers.Trainer):
    """Trains the trainable parameters of a `Task`, and saves those alone.

    The training data are indexed by `Draw`s (see `draws`), whose generators make a resumed run equal to an
    uninterrupted one bit for bit on the CPU. `average` is the decay of an average of the weights (EMA), which is what
    is evaluated, and what the task holds after `fit`.
    """

    def __init__(
        self,
        task: Task,
        args: TrainingArguments,
        output: Output,
        train_dataset: Dataset[Any],
        collate: Any,
        eval_dataset: Dataset[Any] | None = None,
        average: float | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **others: Any,
    ) -> None:
        """`others` are further arguments of transformers' Trainer, such as `compute_metrics`."""
        if average is not None and args.fsdp:
            raise SettingError("an average of the weights (EMA) cannot be kept of sharded ones: leave average or fsdp.")
        self.task, self.output, self.speed = task, output, Speed()
        self._samples = train_dataset
        self._staging: Path | None = None
        self._sampler: Shuffled | None = None
        try:
            super().__init__(
                model=task,
                args=args,
                data_collator=collate,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                callbacks=[*(callbacks or []), Monitor(output.folder, self.speed), _Epochs(self)],
                **others,
            )
        except (ValueError, ImportError, RuntimeError) as error:  # what it has to say about its arguments
            raise SettingError(f"these settings do not go together ({_line(error)}).") from error
        self.remove_callback(PrinterCallback)
        self.label_smoother = None  # a task smooths its labels itself
        self.average = None if average is None else Average(task, average)
        if self.average is not None:
            self.add_callback(_Averaging(self.average, task))

    def fit(self) -> TrainOutput:
        """Train to the end, from the last good checkpoint if the run goes on."""
        checkpoint = self.output.checkpoint
        with self._explained():
            result = self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        if self.average is not None and best is None:
            self.average.copy_to(self.task)
        return result

    def trained(self) -> dict[str, Tensor]:
        """All weights of the task, whole and on the CPU, however they were spread; to be called by every process."""
        state = self.accelerator.get_state_dict(self.model_wrapped)
        return {name: tensor.detach().cpu() for name, tensor in state.items()}

    # Data.

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[Draw]:
        self._sampler = self.train_sampler()
        return self._sampler

    def train_sampler(self) -> Shuffled:
        """To be overridden for another order; has `set_epoch` and yields `Draw`s."""
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return Shuffled(len(self._samples), seed)  # type: ignore[arg-type]

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        self.speed.begin_step()
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.speed.data_came(sum(len(next(iter(batch.values()))) for batch in samples) * self.args.world_size)
        return samples, items

    # Steps.

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step < self.state.max_steps:  # else a run was killed after its last step
            super()._run_epoch(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not loss.isfinite():
            raise SettingError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}: lower learning_rate (it is "
                f"{self.args.learning_rate:g}){self._last_good()}."
            )
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        average = self.average if self.is_in_train else None
        with nullcontext() if average is None else average.applied(self.task):
            return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs = {**logs, **self.speed.read()}
        super().log(logs, start_time)

    # Checkpoints.

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.output.folder if self._staging is None else self._staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        final = self.output.folder / f"checkpoint-{self.state.global_step}"
        if complete(final):
            return
        staging = self.output.folder / STAGING
        self._staging = staging
        try:
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            if self.state.best_global_step:  # where it will be, and not where it is written
                self.state.best_model_checkpoint = str(self.output.folder / f"checkpoint-{self.state.best_global_step}")
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._publish(staging / final.name, final)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise OutputError(
                f"{final} cannot be written ({_line(error)}): make room{self._last_good()} and go on with --resume."
            ) from error
        finally:
            self._staging = None
        self.accelerator.wait_for_everyone()

    def _publish(self, staged: Path, final: Path) -> None:
        best = self.state.best_model_checkpoint
        if best is not None:
            self.state.save_to_json(str(staged / _STATE))
        if self.average is not None:
            self.average.save(staged)
        publish(staged, final)
        shutil.rmtree(staged.parent)
        prune(self.output.folder, self.args.save_total_limit, None if best is None else Path(best))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if state_dict is None:
            frozen = _frozen(self.task)
            state_dict = {name: tensor for name, tensor in self.task.state_dict().items() if name not in frozen}
        odd = next((name for name, tensor in state_dict.items() if not tensor.isfinite().all()), None)
        if odd is not None:
            raise SettingError(
                f"{odd} holds numbers that are no numbers after step {self.state.global_step}: lower learning_rate (it "
                f"is {self.args.learning_rate:g}){self._last_good()}."
            )
        # convolutions may lie channels-last, which safetensors does not write
        super()._save(output_dir, {name: tensor.contiguous() for name, tensor in state_dict.items()})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None:
            self.average.load(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.average is not None:
            self.average.load(Path(str(self.state.best_model_checkpoint)))
            self.average.copy_to(self.task)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        missing = sorted(set(load_result.missing_keys) - _frozen(self.task))
        if missing or load_result.unexpected_keys:
            odd = [*missing, *load_result.unexpected_keys][0]
            raise CheckpointError(f"the checkpoint is one of another model ({odd}): begin anew (--force).")

    # Words.

    def _last_good(self) -> str:
        last = last_checkpoint(self.output.folder)
        return "; there is no checkpoint yet" if last is None else f"; the last good checkpoint is {last}"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What torch says of memory, as one sentence about settings."""
        try:
            yield
        except EyeselError:
            raise
        except (MemoryError, RuntimeError) as error:
            words = str(error)
            if not isinstance(error, MemoryError) and not any(m in words for m in ("out of memory", "allocate memory")):
                raise
            args = self.args
            raise SettingError(
                f"a batch of {args.per_device_train_batch_size} does not fit into memory: lower "
                "per_device_train_batch_size and raise gradient_accumulation_steps (now "
                f"{args.gradient_accumulation_steps}) as much, or add --activation-checkpointing or --bf16"
                f"{self._last_good()}."
            ) from error


class _Epochs(TrainerCallback):
    """Tells the sampler which epoch begins: accelerate does not reach it in every arrangement of data loaders."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        batches = len(objects["train_dataloader"])
        steps = max(-(-batches // args.gradient_accumulation_steps), 1)
        if self._trainer._sampler is not None:
            self._trainer._sampler.set_epoch(state.global_step // steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        self._trainer.speed.end_step()


class _Averaging(TrainerCallback):
    def __init__(self, average: Average, task: Task) -> None:
        self._average, self._task = average, task

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        self._average.update(self._task, state.global_step)


def _frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
