"""A run that is stopped, however, goes on to the same weights, bit for bit."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from eyesel.errors import OutputError, SettingError
from eyesel.train import fit_classifier
from eyesel.train.checkpoints import checkpoints, complete, last_checkpoint, prune
from eyesel.train.trainer import Trainer

# All that draws by chance or remembers: crops, RandAugment, mixup, LoRA's dropout, an average, epochs in parts.
SETTINGS = {
    "tune": "lora",
    "lora_dropout": 0.3,
    "rand_augment": 1,
    "mixup": 0.4,
    "average": 0.8,
    "learning_rate": 5e-3,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 5,
    "gradient_accumulation_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "logging_steps": 1,
    "save_total_limit": 2,
    "weight_decay": 0.1,
    "use_cpu": True,
}


def spawned(folder: Path, settings: dict, **environment: str) -> subprocess.CompletedProcess:
    told = folder / "settings.json"
    told.write_text(json.dumps({name: str(v) if isinstance(v, Path) else v for name, v in settings.items()}))
    return subprocess.run(
        [sys.executable, str(Path(__file__).parent / "dying.py"), str(told)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(autouse=True)
def one_thread():
    """As in the other process: sums in another order differ in the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_killed_in_the_middle_of_a_save(tmp_path, pictures, base):
    told = {"data": pictures, "base": base, **SETTINGS}
    fit_classifier(**told, output=tmp_path / "whole")
    died = spawned(tmp_path, {**told, "output": tmp_path / "killed", "die_at": 6})
    assert died.returncode == -signal.SIGKILL, died.stderr
    killed = tmp_path / "killed"
    assert (killed / ".saving" / "checkpoint-6" / "model.safetensors").is_file()
    assert last_checkpoint(killed) == killed / "checkpoint-4"  # in the middle of the second epoch
    fit_classifier(**told, output=killed, resume=True)

    for file in ("model.safetensors", "adapter/adapter_model.safetensors", "checkpoint-9/ema.safetensors"):
        whole, resumed = load_file(tmp_path / "whole" / file), load_file(killed / file)
        assert whole.keys() == resumed.keys()
        for name, tensor in whole.items():
            assert torch.equal(tensor, resumed[name]), f"{file}: {name}"
    rows = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "whole", killed)
    ]
    losses = [[(row["step"], row[k]) for row in each for k in ("loss", "eval_loss") if k in row] for each in rows]
    assert losses[0] == losses[1] and [step for step, _ in losses[0] if step == 9]
    assert not (killed / ".saving").exists() and checkpoints(killed)[-1].name == "checkpoint-9"
    assert fit_classifier(**told, output=killed, resume=True).labels == ("a", "b", "c", "d")  # nothing left to do


def test_full_disk(tmp_path, pictures, base, monkeypatch):
    """After the first checkpoint no file may grow to the size of one: the second cannot be written, the first stays."""
    told = {
        "data": pictures,
        "base": base,
        "output": tmp_path / "out",
        **SETTINGS,
        "tune": "head",
        "lora_dropout": 0.1,
        "average": None,
    }

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Filling(Trainer):
        def _save_checkpoint(self, model, trial):
            super()._save_checkpoint(model, trial)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))

    monkeypatch.setattr("eyesel.train.classifier.Trainer", Filling)
    try:
        with pytest.raises(OutputError) as error:
            fit_classifier(**told)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    monkeypatch.undo()
    words = str(error.value)
    assert "checkpoint-4 cannot be written" in words and "last good checkpoint is" in words and "checkpoint-2" in words
    assert complete(tmp_path / "out" / "checkpoint-2") and not (tmp_path / "out" / ".saving").exists()
    fit_classifier(**told, resume=True)


def test_no_number(tmp_path, pictures, base):
    told = {
        "data": pictures,
        "base": base,
        "output": tmp_path / "out",
        **SETTINGS,
        "tune": "full",
        "lora_dropout": 0.1,
        "average": None,
    }
    with pytest.raises(
        SettingError, match=r"no numbers? after step 2|loss is (nan|inf) at step \d+: lower learning_rate"
    ):
        fit_classifier(**{**told, "learning_rate": 1e30})
    assert checkpoints(tmp_path / "out") == []


def test_other_settings_are_refused(tmp_path, pictures, base):
    told = {"data": pictures, "base": base, "output": tmp_path / "out", "max_steps": 1, "use_cpu": True, "tune": "head"}
    fit_classifier(**told)
    with pytest.raises(OutputError, match="holds another run"):
        fit_classifier(**told)
    with pytest.raises(SettingError, match=r"learning_rate 2e-05, not 0\.001"):
        fit_classifier(**told, resume=True, learning_rate=1e-3)
    with pytest.raises(SettingError, match="one of them"):
        fit_classifier(**told, resume=True, force=True)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    fit_classifier(**told, resume=True, logging_steps=7)  # no weight depends on it
    fit_classifier(**told, force=True)
    assert not (tmp_path / "out" / "notes.txt").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="left alone"):
        fit_classifier(**{**told, "output": tmp_path / "full"}, force=True)
    with pytest.raises(OutputError, match="no run to go on with"):
        fit_classifier(**{**told, "output": tmp_path / "none"}, resume=True)


def test_a_run_keeps_apart_from_what_it_reads(tmp_path, pictures, base):
    told = {"base": base, "max_steps": 1, "use_cpu": True, "tune": "head"}
    with pytest.raises(OutputError, match="lies among the pictures"):
        fit_classifier(pictures, pictures / "out", **told)
    assert not (pictures / "out").exists()
    fit_classifier(pictures, tmp_path / "out", **told)
    pictures.rename(tmp_path / "out" / "pictures")
    with pytest.raises(OutputError, match="which is read here"):
        fit_classifier(tmp_path / "out" / "pictures", tmp_path / "out", **told, force=True)
    with pytest.raises(OutputError, match="which is read here"):
        fit_classifier(
            tmp_path / "out" / "pictures", tmp_path / "out", **{**told, "base": tmp_path / "out"}, force=True
        )
    assert len(list((tmp_path / "out" / "pictures").rglob("*.png"))) == 32


def test_other_pictures_and_another_base_are_noticed(tmp_path, pictures, base):
    own = shutil.copytree(base, tmp_path / "base")
    told = {"data": pictures, "base": own, "output": tmp_path / "out", "max_steps": 1, "use_cpu": True, "tune": "head"}
    fit_classifier(**told)
    kept = (pictures / "a" / "0.png").read_bytes()
    Image.new("RGB", (9, 9)).save(pictures / "a" / "0.png")
    with pytest.raises(SettingError, match="the pictures, their names or what is said of them are not those"):
        fit_classifier(**told, resume=True)
    (pictures / "a" / "0.png").write_bytes(kept)
    weights = load_file(own / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, own / "model.safetensors")
    with pytest.raises(SettingError, match="the weights of the base are not those"):
        fit_classifier(**told, resume=True)


def test_what_was_trained_and_not_written_is_written(tmp_path, pictures, base):
    """The loss that is told of a run that goes on is that of the whole run."""
    told = {"data": pictures, "base": base, "output": tmp_path / "out", "max_steps": 4, "use_cpu": True, "tune": "head",
            "logging_steps": 1}  # fmt: skip
    fit_classifier(**told)
    whole = json.loads((tmp_path / "out" / "all_results.json").read_text())
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "out" / "run.json").write_text(json.dumps({**record, "finished": False}))
    (tmp_path / "out" / "model.safetensors").unlink()
    fit_classifier(**told, resume=True)
    again = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert again["train_loss"] == pytest.approx(whole["train_loss"]) and again["eval_loss"] == whole["eval_loss"]


def test_control_c_says_how_to_go_on(tmp_path, pictures, base, monkeypatch, capsys):
    class Stopped(Trainer):
        def training_step(self, *args):
            if self.state.global_step == 3:
                raise KeyboardInterrupt
            return super().training_step(*args)

    told = {"data": pictures, "base": base, "output": tmp_path / "out", **SETTINGS}
    monkeypatch.setattr("eyesel.train.classifier.Trainer", Stopped)
    with pytest.raises(KeyboardInterrupt):
        fit_classifier(**told)
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        said == f"eyesel: stopped; the last good checkpoint is {tmp_path}/out/checkpoint-2, from which --resume goes on"
    )


def test_only_whole_checkpoints_count(tmp_path, pictures, base):
    fit_classifier(
        pictures,
        tmp_path / "out",
        base,
        tune="head",
        max_steps=4,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        use_cpu=True,
    )
    out = tmp_path / "out"
    there = [folder.name for folder in checkpoints(out)]
    assert len(there) == 3 and there[-1] == "checkpoint-4"  # save_total_limit, and never the last one
    weights = out / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert last_checkpoint(out) == out / there[-2]
    prune(out, 1, best=Path(there[0]))
    assert {folder.name for folder in checkpoints(out)} == {there[0], there[1]}
