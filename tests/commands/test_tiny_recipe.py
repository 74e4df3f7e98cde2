"""The commands that recipes/tiny/README.md shows do what its scripts do: the same settings, and the same weights."""

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from eyesel.weights.hub import ASSETS

TINY = Path(__file__).parents[2] / "recipes" / "tiny"
FEW = 2  # steps


@pytest.fixture
def recipes(monkeypatch):
    monkeypatch.syspath_prepend(str(TINY))


def shown(command):
    """The words of a command in the README, the threads before it left out."""
    text = (TINY / "README.md").read_text().replace("\\\n", " ")
    (line,) = re.findall(rf"^OMP_NUM_THREADS=\d (eyesel train {command} .*)$", text, re.MULTILINE)
    return shlex.split(line)[1:]


def shortened(words, script):
    """The command for a few steps, where it is as long as the script's own run."""
    said = dict(pairwise(words))
    assert int(said["--max-steps"]) == script.STEPS
    assert json.loads(said["--lr-scheduler-kwargs"]) == {"num_decay_steps": round(script.DECAY * script.STEPS)}
    decay = json.dumps({"num_decay_steps": round(script.DECAY * FEW)})
    return [*words, "--max-steps", FEW, "--lr-scheduler-kwargs", decay]


def write_pictures(folder, classes):
    """Two pictures of noise in the folder of every class."""
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def weights(folder):
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors"))
    return {
        f"{file} {name}": tensor
        for file in files
        if not file.parts[0].startswith("checkpoint-")
        for name, tensor in load_file(folder / file).items()
    }


def check_same(ours, theirs):
    for part in ("settings", "arguments"):
        told = [json.loads((run / "run.json").read_text())[part] for run in (ours, theirs)]
        assert told[0] == told[1]
    ours, theirs = weights(ours), weights(theirs)
    assert ours and ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_the_classifier(run, recipes, tmp_path):
    import train_classifier
    import world

    prepared = Path(".runs/classifier-data")
    train_classifier.write_untrained(prepared / "untrained", seed=0)
    for split in ("train", "test"):
        write_pictures(prepared / "data" / split, world.LABELS)
    train_classifier.fit(prepared, tmp_path / "script", steps=FEW, rate=train_classifier.RATE, seed=0)
    code, _, err = run(*shortened(shown("classifier"), train_classifier))
    assert code == 0, err
    check_same(tmp_path / "script", tmp_path / ".runs/classifier")


def test_the_painter(run, recipes, tmp_path):
    import train_painter

    prepared = Path(".runs/painter-data")
    train_painter.write_untrained(prepared / "untrained", ASSETS / "tiny/painter/vae", seed=0)
    write_pictures(prepared / "data", ["a large fox", "a small owl on a red background"])
    train_painter.fit(prepared, tmp_path / "script", steps=FEW, rate=train_painter.RATE, seed=0)
    code, _, err = run(*shortened(shown("diffusion"), train_painter))
    assert code == 0, err
    check_same(tmp_path / "script", tmp_path / ".runs/painter")
