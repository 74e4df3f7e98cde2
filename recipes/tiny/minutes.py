"""How the autoencoder is trained, for which eyesel has no command: a learner that plans by minutes, and its Trainer.

The length of a run is given in minutes because two borrowed cores have no known speed. Only time spent in steps counts,
and a step counts for no more than a few usual ones, so a run that is suspended, or resumed days later, still ends
properly decayed.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint


class Learner(nn.Module):
    """A model with its loss as forward(); the time it has trained is a buffer, so every checkpoint carries it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seconds", torch.zeros((), dtype=torch.float64))

    def after_step(self) -> None:
        """Called after every optimiser step, for moving averages."""


class Clock(TrainerCallback):
    """Counts the learner's seconds and stops the run when its minutes are over."""

    def __init__(self, learner: Learner, minutes: float) -> None:
        self.learner, self.minutes = learner, minutes
        self.usual = float("inf")
        self.last = time.perf_counter()

    @property
    def progress(self) -> float:
        return min(1.0, self.learner.seconds.item() / (60 * self.minutes))

    def on_train_begin(self, args, state, control, **_):
        self.last = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        self.learner.after_step()
        now = time.perf_counter()
        took, self.last = now - self.last, now
        self.usual = took if self.usual == float("inf") else 0.98 * self.usual + 0.02 * min(took, 4 * self.usual)
        self.learner.seconds += min(took, 4 * self.usual)
        if self.progress >= 1:
            control.should_training_stop = control.should_save = True


class MinutesTrainer(Trainer):
    """A Trainer whose learning rate follows the clock: short warm-up, constant, linear decay over the last part."""

    def __init__(self, *args, clock: Clock, decay: float, **kwargs) -> None:
        super().__init__(*args, callbacks=[clock], **kwargs)
        self.clock, self.decay = clock, decay

    def create_scheduler(self, num_training_steps, optimizer=None):
        def factor(step: int) -> float:
            return min(1.0, (step + 1) / 100, max(0.02, (1 - self.clock.progress) / self.decay))

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler


class Rows(Dataset):
    """Tensors of equal length, one row of each at a time."""

    def __init__(self, **columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {name: column[i] for name, column in self.columns.items()}


def arguments(purpose: str, minutes: float, rate: float, threads: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=purpose, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints and the finished model")
    parser.add_argument("--minutes", type=float, default=minutes, help="training time in all, earlier runs included")
    parser.add_argument("--rate", type=float, default=rate, help="learning rate")
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=24, help="pictures drawn of every training triple")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    return parser


def train(learner: Learner, rows: Rows, options: argparse.Namespace, collate, decay: float, **settings) -> None:
    clock = Clock(learner, options.minutes)
    settings = {"per_device_train_batch_size": 64, "weight_decay": 0.01, "save_steps": 300, **settings}
    trainer = MinutesTrainer(
        learner,
        TrainingArguments(
            output_dir=str(options.output),
            max_steps=1_000_000,  # the clock stops it
            learning_rate=options.rate,
            adam_beta2=0.98,
            max_grad_norm=1.0,
            save_total_limit=2,
            logging_steps=50,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            ignore_data_skip=True,  # a resumed run need not replay the batches it has seen
            use_cpu=not torch.cuda.is_available(),
            seed=options.seed,
            **settings,
        ),
        train_dataset=rows,
        data_collator=collate,
        clock=clock,
        decay=decay,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(options.output)) if options.resume else None)
