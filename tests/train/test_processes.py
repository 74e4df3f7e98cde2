"""Two processes on gloo do what one does with the same batches."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from eyesel.train import fit_classifier, fit_diffusion
from short_runs import FEW

CLASSIFIER = {
    "learning_rate": 1e-3,
    "max_steps": 4,
    "logging_steps": 1,
    "per_device_eval_batch_size": 3,
    "validation_share": 0.25,  # 24 pictures are left: whole batches, however they are shared out
    "use_cpu": True,
    "rand_augment": 1,
}
PAINTER = {**FEW, "logging_steps": 1, "caption_dropout": 0.3, "train_text_encoder": True}
BOTH = (
    "import sys, json, torch; torch.set_num_threads(1); from eyesel.train import fit_classifier, fit_diffusion; "
    "told = json.loads(sys.argv[1]); fit_classifier(**told[0]); fit_diffusion(**told[1])"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, painters, captioned, base, eight_of_each):
    """What one process wrote, and what two that share its batches: the classifier's, the painter's, and their words."""
    root = tmp_path_factory.mktemp("processes")
    classifier = {"data": str(eight_of_each), "base": str(base), **CLASSIFIER}
    painter = {"data": str(captioned), "base": str(painters["sd1"]), **PAINTER}
    shared = [
        {**classifier, "output": str(root / "two"), "per_device_train_batch_size": 4},
        {**painter, "output": str(root / "two-painter"), "per_device_train_batch_size": 1},
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", BOTH, json.dumps(shared)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    fit_classifier(**classifier, output=root / "one", per_device_train_batch_size=8)
    fit_diffusion(**painter, output=root / "one-painter")
    errors = [rank.communicate(timeout=240)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    return (root / "one", root / "two"), (root / "one-painter", root / "two-painter"), "".join(errors)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def check_same(folders, key):
    one, both = ([row[key] for row in rows(folder) if key in row] for folder in folders)
    assert len(one) == len(both) and one
    assert all(abs(a - b) < 1e-5 for a, b in zip(one, both, strict=True)), (key, one, both)


def test_a_classifier(folders):
    written, _, said = folders
    for key in ("loss", "eval_loss", "eval_accuracy"):
        check_same(written, key)
    assert "Could not locate" not in said
    one, both = (load_file(folder / "model.safetensors") for folder in written)
    # Adam divides by the roots of small gradients.
    assert max((tensor - both[name]).abs().max().item() for name, tensor in one.items()) < 1e-4
    assert torch.equal(*(torch.tensor([row["step"] for row in rows(each) if "loss" in row]) for each in written))


def test_a_painter(folders):
    """Buckets, LoRA and dropped captions."""
    _, written, _ = folders
    check_same(written, "loss")
    assert [row["step"] for row in rows(written[1]) if "loss" in row] == [1, 2, 3, 4]
