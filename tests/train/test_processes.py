"""Two processes on gloo do what one does with the same batches."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from eyesel.train import fit_classifier

SETTINGS = {
    "learning_rate": 1e-3,
    "max_steps": 4,
    "logging_steps": 1,
    "per_device_eval_batch_size": 3,
    "validation_share": 0.25,  # 24 pictures are left: whole batches, however they are shared out
    "use_cpu": True,
    "rand_augment": 1,
}


def test_two_processes(tmp_path, pictures, base):
    told = {"data": str(pictures), "base": str(base), **SETTINGS}
    two = {**told, "output": str(tmp_path / "two"), "per_device_train_batch_size": 4}
    (tmp_path / "settings.json").write_text(json.dumps(two))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).parent / "dying.py"), str(tmp_path / "settings.json")]
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    fit_classifier(**told, output=tmp_path / "one", per_device_train_batch_size=8)
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for key in ("loss", "eval_loss", "eval_accuracy"):
        one, both = ([row[key] for row in each if key in row] for each in rows)
        assert len(one) == len(both) and one
        assert all(abs(a - b) < 1e-5 for a, b in zip(one, both, strict=True)), (key, one, both)
    assert "Could not locate" not in "".join(errors)
    one, both = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert (
        max((tensor - both[name]).abs().max().item() for name, tensor in one.items()) < 1e-4
    )  # Adam divides by the roots of small gradients
    assert torch.equal(*(torch.tensor([row["step"] for row in each if "loss" in row]) for each in rows))
