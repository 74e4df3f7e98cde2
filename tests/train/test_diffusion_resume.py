"""What changes no weight of a painter: to stop and go on, to compute things again, to keep them, to look on."""

import functools
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from eyesel.errors import EyeselError
from eyesel.stable_diffusion import StableDiffusion
from eyesel.train.checkpoints import last_checkpoint
from short_runs import FEW, run_to

KINDS = {
    "plain": {},
    "lora": {"train_text_encoder": True, "shuffle_tags": True, "caption_dropout": 0.2, "flip": True},
    "full": {"method": "full", "ema": 0.9, "noise_offset": 0.1, "snr_gamma": 5.0},
}
PARTS = {"save_steps": 3, "logging_steps": 1}  # an epoch has two steps: stopped in the middle of one


@pytest.fixture(scope="module")
def whole(painters, captioned, tmp_path_factory):
    """The folder of an uninterrupted run of five steps, by kind."""

    @functools.cache
    def folder(kind):
        out = tmp_path_factory.mktemp(kind) / "whole"
        run_to(captioned, out, painters["sd1"], 5, **PARTS, **KINDS[kind])
        return out

    return folder


def weights(folder, step):
    return load_file(folder / f"checkpoint-{step}/model.safetensors")


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(painters, captioned, tmp_path, whole, kind):
    stopped = tmp_path / "again"
    shutil.copytree(whole(kind), stopped)
    shutil.rmtree(stopped / "checkpoint-5")
    record = json.loads((stopped / "run.json").read_text())
    record.pop("finished")
    (stopped / "run.json").write_text(json.dumps(record))
    resumed = run_to(captioned, stopped, painters["sd1"], 5, resume=True, **PARTS, **KINDS[kind])
    expected = weights(whole(kind), 5)
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    if kind == "full":
        one, other = (load_file(folder / "checkpoint-5/ema.safetensors") for folder in (whole(kind), stopped))
        assert all(torch.equal(one[name], other[name]) for name in one)
    metrics = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (whole(kind), stopped)
    ]
    losses = [[(row["step"], row["loss"]) for row in rows if "loss" in row] for rows in metrics]
    assert losses[0] == losses[1] and [step for step, _ in losses[0]] == [1, 2, 3, 4, 5]


def test_a_run_that_was_killed_after_its_last_step_takes_no_more(painters, captioned, tmp_path, whole):
    """In the middle of an epoch."""
    stopped = tmp_path / "again"
    shutil.copytree(whole("full"), stopped)
    record = json.loads((stopped / "run.json").read_text())
    (stopped / "run.json").write_text(json.dumps({name: told for name, told in record.items() if name != "finished"}))
    run_to(captioned, stopped, painters["sd1"], 5, resume=True, **PARTS, **KINDS["full"])
    one, other = (load_file(out / "unet/diffusion_pytorch_model.safetensors") for out in (whole("full"), stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_computing_activations_again_changes_no_weight(painters, captioned, tmp_path, whole):
    told = {**PARTS, **KINDS["lora"], "activation_checkpointing": True}
    other = run_to(captioned, tmp_path / "again", painters["sd1"], 3, **told)
    one = weights(whole("lora"), 3)
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-6


def test_half_precision_trains(painters, captioned, tmp_path):
    told = {"method": "lora", "train_text_encoder": True, "bf16": True}
    found = run_to(captioned, tmp_path / "one", painters["sdxl"], 2, **told)
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in found.values())


def test_kept_latents_change_no_weight(painters, captioned, tmp_path, whole):
    one = weights(whole("plain"), 3)
    for name in ("two", "three"):
        other = run_to(captioned, tmp_path / name, painters["sd1"], 3, **PARTS, cache=str(tmp_path / "cache"))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_samples_make_a_sheet_and_change_no_weight(painters, captioned, tmp_path, whole):
    out = tmp_path / "seen"
    told = {"validation_prompt": ["a fox", "an owl"], "validation_steps": 2, "report_to": "tensorboard"}
    run_to(captioned, out, painters["sd1"], 4, **PARTS, **told)
    one, seen = weights(whole("plain"), 3), weights(out, 3)
    assert all(torch.equal(one[name], seen[name]) for name in one)
    names = sorted(path.name for path in (out / "samples").iterdir())
    assert names == [f"step-{step:06d}-{i}.png" for step in (0, 2, 4) for i in (0, 1)]
    first, last = (Image.open(out / "samples" / f"step-{step:06d}-0.png") for step in (0, 4))
    base = StableDiffusion.load(painters["sd1"], device="cpu", precision="float32")
    assert np.array_equal(np.asarray(first), np.asarray(base.generate("a fox", seed=0, size=(64, 64)).image))
    assert not np.array_equal(np.asarray(first), np.asarray(last))
    width, height = Image.open(out / "samples.png").size
    assert width > 2 * 160
    assert height > 3 * 160


def test_a_run_goes_on_beside_the_same_class_pictures(painters, captioned, tmp_path):
    out, kept = tmp_path / "run", tmp_path / "kept"
    told = {**PARTS, "class_data": str(kept), "class_prompt": "a fox", "class_pictures": 2}
    run_to(captioned, out, painters["sd1"], 3, **told)
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({name: told for name, told in record.items() if name != "finished"}))
    before = (kept / "class-00000.png").read_bytes()
    Image.new("RGB", (64, 64), "blue").save(kept / "class-00000.png")
    with pytest.raises(EyeselError, match="the pictures of class_data, their names"):
        run_to(captioned, out, painters["sd1"], 3, resume=True, **told)
    (kept / "class-00000.png").write_bytes(before)
    run_to(captioned, out, painters["sd1"], 3, resume=True, **told)
    assert json.loads((out / "run.json").read_text()) == record


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_a_run_to_go_on_with(painters, captioned, tmp_path):
    """SIGKILL while checkpoints are written one after the other."""
    out = tmp_path / "killed"
    each = {"save_steps": 1, "save_total_limit": 2}
    settings = {**FEW, "max_steps": 400, **each}
    code = (
        "import sys, json; from eyesel.train import fit_diffusion; "
        f"fit_diffusion({str(captioned)!r}, {str(out)!r}, {str(painters['sd1'])!r}, **json.loads(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, json.dumps(settings)], stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("step 6"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    last = last_checkpoint(out)
    assert last is not None
    step = int(last.name.removeprefix("checkpoint-"))
    record = json.loads((out / "run.json").read_text())
    record["arguments"]["max_steps"] = step + 2
    (out / "run.json").write_text(json.dumps(record))
    resumed = run_to(captioned, out, painters["sd1"], step + 2, resume=True, **each)
    whole = run_to(captioned, tmp_path / "whole", painters["sd1"], step + 2, **each)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
