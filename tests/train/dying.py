"""Runs a training in a process of its own, for the tests: `python dying.py SETTINGS.json`.

With `die_at`, the process is killed (SIGKILL) in the middle of the checkpoint of that step: when the model is written
and the optimizer is not.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from eyesel.train import classifier


class Dying(classifier.Trainer):
    die_at = -1

    def _save_optimizer_and_scheduler(self, output_dir):
        if self.state.global_step == self.die_at:
            assert (Path(output_dir) / "model.safetensors").is_file()
            os.kill(os.getpid(), signal.SIGKILL)
        super()._save_optimizer_and_scheduler(output_dir)


if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    Dying.die_at = settings.pop("die_at", -1)
    classifier.Trainer = Dying
    classifier.fit_classifier(**settings)
