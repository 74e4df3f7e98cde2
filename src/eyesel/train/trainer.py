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
from eyesel.train.promises import Begin, Promises
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
        self._unchecked: tuple[int, Tensor] | None = None  # a step and its loss
        self._monitor = Monitor(output.folder, self.speed)
        with self._together():
            super().__init__(
                model=task,
                args=args,
                data_collator=Begin(collate) if self._in_threads(args) else collate,  # type: ignore[arg-type]
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                callbacks=[*(callbacks or []), self._monitor, _Epochs(self)],
                **others,
            )
        self.remove_callback(PrinterCallback)
        self.label_smoother = None  # a task smooths its labels itself
        self.average = None if average is None else Average(task, average)
        if self.average is not None:
            self.add_callback(_Averaging(self.average, task))

    def fit(self) -> TrainOutput:
        """Train to the end, from the last good checkpoint if the run goes on."""
        checkpoint = self.output.checkpoint
        try:
            with self._explained():
                result = self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finally:
            self._monitor.close()
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

    @staticmethod
    def _in_threads(args: TrainingArguments) -> bool:
        """Whether batches are made in threads of this process."""
        return args.dataloader_num_workers == 0 and not args.accelerator_config.dispatch_batches  # type: ignore[union-attr]

    def _get_dataloader(self, dataset: Any, description: str, batch_size: int, *others: Any, **options: Any) -> Any:
        """`dataloader_drop_last` is for training alone: what is evaluated is the whole split."""
        read = Promises(dataset) if self._in_threads(self.args) else dataset
        drops = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drops and description == "Training"
        try:
            with self._together():
                loader = super()._get_dataloader(read, description, batch_size, *others, **options)
        finally:
            self.args.dataloader_drop_last = drops
        if not len(loader):
            raise SettingError(
                f"dataloader_drop_last leaves nothing of {len(dataset)} pictures in batches of {batch_size}: leave it "
                "out."
            )
        return loader

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
        self._check_loss()  # of the step before: to ask for this one would make a GPU wait for what is still to be sent
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._unchecked = (self.state.global_step + 1, loss)
        return loss

    def _check_loss(self) -> None:
        if self._unchecked is not None:
            step, loss = self._unchecked
            if not loss.isfinite():
                raise SettingError(
                    f"the loss is {loss.item()} at step {step}: lower learning_rate (it is "
                    f"{self.args.learning_rate:g}){self._last_good()}."
                )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        average = self.average if self.is_in_train else None
        with nullcontext() if average is None else average.applied(self.task):
            return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self._check_loss()
        if "loss" in logs:
            logs = {**logs, **self.speed.read()}
        if "train_loss" in logs and self.output.checkpoint is not None:
            logs["train_loss"] = self._mean_loss(logs["train_loss"])
        super().log(logs, start_time)

    def _mean_loss(self, own: float) -> float:
        """Over all steps whose losses were logged, those before the run was stopped among them; `own` is that of
        Trainer, which counts from the checkpoint on.
        """
        logged = [(row["step"], row["loss"]) for row in self.state.log_history if "loss" in row]
        before = [0, *(step for step, _ in logged)]
        total = sum(loss * (step - last) for (step, loss), last in zip(logged, before, strict=False))
        return total / before[-1] if logged else own

    def create_optimizer(self, *args: Any, **options: Any) -> Any:
        with self._together():
            return super().create_optimizer(*args, **options)

    def create_scheduler(self, *args: Any, **options: Any) -> Any:
        with self._together():
            return super().create_scheduler(*args, **options)

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
                f"{final} cannot be written ({_line(error)}): make room; {self.output.how_to_go_on()}."
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
        # safetensors has no other order of memory, which convolutions may be in
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
    def _together(self) -> Iterator[None]:
        """What Trainer has to say about its arguments."""
        try:
            yield
        except (ValueError, TypeError, AssertionError, ImportError, RuntimeError) as error:
            raise SettingError(f"these settings do not go together ({_line(error)}).") from error

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
