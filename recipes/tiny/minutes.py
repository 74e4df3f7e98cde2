"""A Trainer that is told its minutes instead of its steps: for the autoencoder, which eyesel has no command for.

The length of a run is given in minutes because two borrowed cores have no known speed. Only time spent in steps counts,
and a step counts for no more than a few usual ones, so a run that is suspended, or resumed days later, still ends
properly decayed.
"""

import time

import torch
from torch import nn
from transformers import Trainer, TrainerCallback


class Timed(nn.Module):
    """A model whose seconds of training are a buffer, so that every checkpoint carries them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seconds", torch.zeros((), dtype=torch.float64))


class Clock(TrainerCallback):
    """Counts the model's seconds and stops the run when its minutes are over."""

    def __init__(self, model: Timed, minutes: float) -> None:
        self.model, self.minutes = model, minutes
        self.usual = float("inf")
        self.last = time.perf_counter()

    @property
    def progress(self) -> float:
        return min(1.0, self.model.seconds.item() / (60 * self.minutes))

    def on_train_begin(self, args, state, control, **_):
        self.last = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        now = time.perf_counter()
        took, self.last = now - self.last, now
        self.usual = took if self.usual == float("inf") else 0.98 * self.usual + 0.02 * min(took, 4 * self.usual)
        self.model.seconds += min(took, 4 * self.usual)
        if self.progress >= 1:
            control.should_training_stop = control.should_save = True


class MinutesTrainer(Trainer):
    """A Trainer whose learning rate follows the clock: short warm-up, constant, linear decay over the share `decay`."""

    def __init__(self, model: Timed, *args, minutes: float, decay: float, **kwargs) -> None:
        self.clock, self.decay = Clock(model, minutes), decay
        super().__init__(model, *args, callbacks=[self.clock], **kwargs)

    def create_scheduler(self, num_training_steps, optimizer=None):
        def factor(step: int) -> float:
            return min(1.0, (step + 1) / 100, max(0.02, (1 - self.clock.progress) / self.decay))

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler
