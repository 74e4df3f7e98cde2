"""The trainer by itself, on the smallest of tasks."""

import threading

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from eyesel.errors import ImageError, SettingError
from eyesel.train.arguments import training_arguments
from eyesel.train.draws import Draw, generator
from eyesel.train.monitor import read_metrics
from eyesel.train.output import Output
from eyesel.train.task import Task
from eyesel.train.trainer import Trainer


class Numbers(Dataset):
    """Twelve noisy points on a line; every draw is noise of its own."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 12

    def __getitem__(self, draw):
        self.asked.append(draw)
        assert isinstance(draw, Draw)
        x = torch.from_numpy(generator(1, *draw).normal(size=1)).float()
        return {"x": x, "y": 2 * x + draw.number}


class Line(Task):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(1, 1)
        self.seen = []

    def forward(self, x, y):
        self.seen.append(self.layer.weight.item())
        return {"loss": (self.layer(x) - y).square().mean()}


class Greedy(Line):
    def forward(self, x, y):
        return {"loss": super().forward(x, y)["loss"] + torch.empty(10**15).sum()}


def collate(rows):
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def trainer(folder, task, average=None, data=None, **changes):
    settings = {"max_steps": 7, "per_device_train_batch_size": 4, "logging_steps": 1, "save_strategy": "no"}
    args = training_arguments(folder, {"use_cpu": True, "report_to": "none"}, {**settings, **changes})
    return Trainer(task, args, Output.begin(args, {}), data or Numbers(), collate, average=average)


def test_every_epoch_is_another_order_of_all(tmp_path):
    run = trainer(tmp_path / "run", Line(), max_steps=6)
    run.fit()
    asked = run.train_dataset.asked
    orders = [[draw.number for draw in asked if draw.epoch == epoch] for epoch in (0, 1)]
    assert all(sorted(order) == list(range(12)) for order in orders) and orders[0] != orders[1]


def test_workers_and_processes_of_loading_change_nothing(tmp_path):
    losses = []
    for workers in (0, 2):
        run = trainer(tmp_path / str(workers), Line(), dataloader_num_workers=workers)
        run.fit()
        losses.append([row["loss"] for row in read_metrics(tmp_path / str(workers) / "metrics.jsonl") if "loss" in row])
    assert len(losses[0]) == 7 and losses[0] == losses[1]


def test_a_batch_is_made_while_the_step_before_it_is_computed(tmp_path):
    begun = [threading.Event() for _ in range(3)]

    class Announced(Numbers):
        def __getitem__(self, draw):
            begun[len(self.asked) // 4].set()
            return super().__getitem__(draw)

    class Waiting(Line):
        def forward(self, x, y):
            assert begun[min(len(self.seen) + 1, 2)].wait(20)
            return super().forward(x, y)

    trainer(tmp_path / "run", Waiting(), data=Announced(), max_steps=3).fit()
    assert all(event.is_set() for event in begun)


def test_what_is_wrong_with_a_sample_is_said(tmp_path):
    class Broken(Numbers):
        def __getitem__(self, draw):
            if draw.number == 5:
                raise ImageError("5.png does not exist: check the path.")
            return super().__getitem__(draw)

    with pytest.raises(ImageError, match=r"5\.png does not exist"):
        trainer(tmp_path / "run", Line(), data=Broken()).fit()


def test_average(tmp_path):
    """Against the formula: from the first weights on, step n moves it by 1 - min(decay, (1 + n) / (10 + n))."""
    task = Line()
    run = trainer(tmp_path / "run", task, average=0.25, learning_rate=0.1)
    run.average.copy_to = lambda task: None  # so that the task holds what the last step left
    run.fit()
    expected, *left = [*task.seen, task.layer.weight.item()]
    for step, weight in enumerate(left, start=1):
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    assert len(left) == 7 and abs(run.average.weights["layer.weight"].item() - expected) < 1e-6
    del run.average.copy_to
    with run.average.applied(task):
        assert abs(task.layer.weight.item() - expected) < 1e-6
    assert task.layer.weight.item() == left[-1]


def test_too_much_for_memory_is_one_sentence(tmp_path):
    with pytest.raises(SettingError, match=r"a batch of 4 does not fit into memory: lower per_device_train_batch_size"):
        trainer(tmp_path / "run", Greedy()).fit()


def test_what_goes_wrong_in_setting_up(tmp_path):
    with pytest.raises(SettingError, match="eval_strategy"):
        trainer(tmp_path / "run", Line(), eval_strategy="epoch")
    with pytest.raises(SettingError, match="nowhere"):
        trainer(tmp_path / "other", Line(), report_to="nowhere")
