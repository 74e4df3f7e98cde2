"""Whole runs of the painter's fine-tuning: what is written opens elsewhere, and what was stopped goes on."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from eyesel.errors import EyeselError
from eyesel.stable_diffusion import StableDiffusion
from eyesel.train import fit_diffusion
from eyesel.train.checkpoints import last_checkpoint
from eyesel.weights.clip_format import CLIP_TEXT
from eyesel.weights.diffusers_format import UNET
from eyesel.weights.files import read_tensor_metadata
from tiny_models import write_painter

FEW = {
    "per_device_train_batch_size": 2,
    "max_steps": 4,
    "save_steps": 2,
    "logging_steps": 2,
    "learning_rate": 1e-2,
    "use_cpu": True,
}
TAGS = {"a small fox": 2, "a large fox": 2, "red": 4}
PAINT = {"steps": 3, "guidance": 2.0, "seed": 4}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("painters")
    return {family: write_painter(root / family, family) for family in ("sd1", "sd2", "sdxl")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i, size in enumerate([(64, 64), (64, 64), (80, 48), (80, 48)]):
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {['small', 'large'][i % 2]} fox, red")
    return folder


def picture(painter, prompt="a small fox", size=(64, 64), **others):
    return np.asarray(painter.generate(prompt, size=size, **{**PAINT, **others}).image).astype(float)


def same(one, other):
    return np.abs(one - other).max() <= 1


def test_lora_opens_in_both_spellings_and_in_diffusers(folders, data, tmp_path):
    for family in ("sd1", "sd2", "sdxl"):
        out, base = tmp_path / family, folders[family]
        settings = {"rank": 2, "alpha": 4.0, "targets": "all", "train_text_encoder": True, "shuffle_tags": True}
        trained = fit_diffusion(data, out, base, method="lora", **settings, **FEW)
        plain = StableDiffusion.load(base, device="cpu", precision="float32")
        assert not same(picture(trained), picture(plain))
        kohya = plain.with_loras([out / f"{family}.safetensors"])
        diffusers_spelling = plain.with_loras([out / "pytorch_lora_weights.safetensors"])
        assert same(picture(kohya), picture(diffusers_spelling))
        told = read_tensor_metadata(out / f"{family}.safetensors")
        assert (told["ss_network_dim"], told["ss_network_alpha"]) == ("2", "4")
        assert told["ss_base_model_version"].startswith({"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_"}[family])
        assert json.loads(told["ss_tag_frequency"]) == {data.name: TAGS}
        for file in ("pytorch_lora_weights.safetensors", f"{family}.safetensors"):
            pipeline = diffusers.DiffusionPipeline.from_pretrained(base)
            pipeline.load_lora_weights(out, weight_name=file)
            pipeline.fuse_lora()
            fused = fused_weights(pipeline)
            ours = our_weights(kohya)
            assert ours.keys() == fused.keys()
            assert max(float((ours[name] - fused[name]).abs().max()) for name in ours) < 1e-5


def fused_weights(pipeline):
    models = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    if hasattr(pipeline, "text_encoder_2"):
        models["text_encoder_2"] = pipeline.text_encoder_2
    found = {}
    for part, model in models.items():
        for name, tensor in model.named_parameters():
            name = name.replace("base_layer.", "").removeprefix("text_model.")
            if "lora_" not in name:
                found[f"{part}.{name}"] = tensor.detach()
    return found


def our_weights(painter):
    models = [painter.unet, *painter.text_encoders]
    found = {}
    for part, model in zip(("unet", "text_encoder", "text_encoder_2"), models, strict=False):
        table = UNET if part == "unet" else CLIP_TEXT
        for name, tensor in table.write(dict(model.named_parameters())).items():
            found[f"{part}.{name.removeprefix('text_model.')}"] = tensor.detach()
    return found


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_full_training_gives_a_folder_of_diffusers(folders, data, tmp_path, family):
    out = tmp_path / "full"
    trained = fit_diffusion(
        data, out, folders[family], method="full", ema=0.5, train_text_encoder=True, caption_dropout=0.3, **FEW
    )
    ours = our_weights(StableDiffusion.load(out, device="cpu", precision="float32"))
    theirs = fused_weights(diffusers.DiffusionPipeline.from_pretrained(out))
    before = our_weights(StableDiffusion.load(folders[family], device="cpu", precision="float32"))
    assert ours.keys() == theirs.keys() == before.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    changed = [
        part
        for part in ("unet", "text_encoder")
        if any(not torch.equal(ours[n], before[n]) for n in ours if n.startswith(f"{part}."))
    ]
    assert changed == ["unet", "text_encoder"]
    assert picture(trained).shape == (64, 64, 3)
    average = load_file(out / "checkpoint-4/ema.safetensors")
    name = "unet.conv_out.weight"
    assert torch.equal(ours[name], average[name])


def test_textual_inversion_opens_in_diffusers(folders, data, tmp_path):
    alone = tmp_path / "data"
    alone.mkdir()
    shutil.copy(data / "0.png", alone)
    out = tmp_path / "word"
    words = {"placeholder": "<new>", "initializer": "fox", "vectors": 2}
    trained = fit_diffusion(alone, out, folders["sd1"], method="textual-inversion", **words, **FEW)
    assert trained.prompt_encoder.words.ids["<new>"] == range(-3, -5, -1)  # after those of the file
    vectors = load_file(out / "learned_embeds.safetensors")["<new>"]
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folders["sd1"])
    pipeline.load_textual_inversion(str(out / "learned_embeds.safetensors"))
    table = pipeline.text_encoder.get_input_embeddings().weight
    assert torch.equal(table[-2:].detach(), vectors)
    fox = pipeline.tokenizer("fox", add_special_tokens=False).input_ids
    assert not torch.allclose(vectors[0], table[fox[0]])
    context = pipeline.encode_prompt("a <new>", "cpu", 1, False)[0]
    ours = trained.prompt_encoder.encode(["a <new>"])["a <new>"].context
    text = pipeline.maybe_convert_prompt("a <new>", pipeline.tokenizer)
    assert text == "a <new> <new>_1"
    assert (ours[0] - context[0]).abs().max() < 1e-5


def test_textual_inversion_of_xl_has_vectors_for_both(folders, data, tmp_path):
    out = tmp_path / "word"
    trained = fit_diffusion(
        _alone(data, tmp_path), out, folders["sdxl"], method="textual-inversion", placeholder="<new>",
        initializer="fox", **FEW,
    )  # fmt: skip
    assert load_file(out / "learned_embeds.safetensors").keys() == {"clip_l", "clip_g"}
    assert "learned_embeds" in trained.prompt_encoder.words.ids


def _alone(data, tmp_path):
    folder = tmp_path / "alone"
    folder.mkdir()
    shutil.copy(data / "0.png", folder)
    return folder


def test_inpainting_widens_and_paints(folders, data, tmp_path):
    out = tmp_path / "inpaint"
    with pytest.warns(UserWarning, match="widened from 4 to 9"):
        trained = fit_diffusion(data, out, folders["sd1"], method="inpaint", **FEW)
    assert trained.inpaints
    pipeline = diffusers.DiffusionPipeline.from_pretrained(out)
    assert type(pipeline).__name__ == "StableDiffusionInpaintPipeline"
    assert pipeline.unet.config.in_channels == 9
    image = Image.open(data / "0.png").convert("RGB")
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (0, 0, 32, 64))
    again = trained.inpaint(image, mask, "a fox", **PAINT).image
    assert np.array_equal(np.asarray(again)[:, 48:], np.asarray(image)[:, 48:])
    more = fit_diffusion(data, tmp_path / "more", out, method="lora", **FEW)  # of a base that repaints
    assert more.inpaints


def test_dreambooth_paints_its_class(folders, data, tmp_path):
    out = tmp_path / "booth"
    fit_diffusion(
        data, out, folders["sd1"], method="dreambooth", lora=True, instance_prompt="a red fox", class_prompt="a fox",
        class_pictures=3, **FEW,
    )  # fmt: skip
    painted = sorted(path.name for path in (out / "class").iterdir())
    assert painted == ["class-00000.png", "class-00001.png", "class-00002.png"]
    told = read_tensor_metadata(out / "booth.safetensors")
    assert (told["ss_num_train_images"], told["ss_num_reg_images"]) == ("4", "3")


# --- stopping and going on


def run_to(data, out, base, steps, resume=False, **settings):
    fit_diffusion(data, out, base, resume=resume, **{**FEW, "max_steps": steps, **settings})
    return load_file(out / f"checkpoint-{steps}/model.safetensors")


@pytest.mark.parametrize(
    ("settings", "stored"),
    [
        (
            {"method": "lora", "train_text_encoder": True, "shuffle_tags": True, "caption_dropout": 0.2, "flip": True},
            "float32",
        ),
        ({"method": "full", "ema": 0.9, "noise_offset": 0.1, "snr_gamma": 5.0}, "float32"),
        ({"method": "full", "ema": 0.9}, "float16"),  # which is converted when it is read, and laid out anew
    ],
)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(folders, data, tmp_path, settings, stored):
    base = folders["sd1"]
    if stored == "float16":
        base = tmp_path / "half"
        diffusers.StableDiffusionPipeline.from_pretrained(folders["sd1"]).to(torch.float16).save_pretrained(base)
    whole = run_to(data, tmp_path / "whole", base, 6, **settings)
    stopped = tmp_path / "again"
    shutil.copytree(tmp_path / "whole", stopped)
    shutil.rmtree(stopped / "checkpoint-6")
    record = json.loads((tmp_path / "whole/run.json").read_text())
    record.pop("finished")
    (stopped / "run.json").write_text(json.dumps(record))
    resumed = run_to(data, stopped, base, 6, resume=True, **settings)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    if "ema" in settings:
        one, other = (load_file(tmp_path / name / "checkpoint-6/ema.safetensors") for name in ("whole", "again"))
        assert all(torch.equal(one[name], other[name]) for name in one)
    metrics = [
        [json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("whole", "again")
    ]
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in metrics]
    assert losses[0] == losses[1]


def test_a_run_that_was_killed_after_its_last_step_takes_no_more(folders, data, tmp_path):
    out, settings = tmp_path / "run", {"method": "full", "ema": 0.9}
    run_to(data, out, folders["sd1"], 3, **settings)  # an epoch has two steps
    whole = load_file(out / "unet/diffusion_pytorch_model.safetensors")
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({name: told for name, told in record.items() if name != "finished"}))
    run_to(data, out, folders["sd1"], 3, resume=True, **settings)
    resumed = load_file(out / "unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert last_checkpoint(out).name == "checkpoint-3"


def test_computing_activations_again_changes_no_weight(folders, data, tmp_path):
    settings = {"method": "lora", "train_text_encoder": True}
    one = run_to(data, tmp_path / "one", folders["sd1"], 2, **settings)
    other = run_to(data, tmp_path / "two", folders["sd1"], 2, activation_checkpointing=True, **settings)
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-6


def test_half_precision_trains(folders, data, tmp_path):
    weights = run_to(data, tmp_path / "one", folders["sdxl"], 2, method="lora", train_text_encoder=True, bf16=True)
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in weights.values())


def test_kept_latents_change_no_weight(folders, data, tmp_path):
    one = run_to(data, tmp_path / "one", folders["sd1"], 2)
    for name in ("two", "three"):
        other = run_to(data, tmp_path / name, folders["sd1"], 2, cache=str(tmp_path / "cache"))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_samples_make_a_sheet_and_change_no_weight(folders, data, tmp_path):
    plain = run_to(data, tmp_path / "plain", folders["sd1"], 4)
    out = tmp_path / "seen"
    seen = run_to(
        data, out, folders["sd1"], 4, validation_prompt=["a fox", "an owl"], validation_steps=2, report_to="tensorboard"
    )  # fmt: skip
    assert all(torch.equal(plain[name], seen[name]) for name in plain)
    names = sorted(path.name for path in (out / "samples").iterdir())
    assert names == [f"step-{step:06d}-{i}.png" for step in (0, 2, 4) for i in (0, 1)]
    first, last = (Image.open(out / "samples" / f"step-{step:06d}-0.png") for step in (0, 4))
    base = StableDiffusion.load(folders["sd1"], device="cpu", precision="float32")
    assert np.array_equal(np.asarray(first), np.asarray(base.generate("a fox", seed=0, size=(64, 64)).image))
    assert not np.array_equal(np.asarray(first), np.asarray(last))
    width, height = Image.open(out / "samples.png").size
    assert width > 2 * 160
    assert height > 3 * 160


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_a_run_to_go_on_with(folders, data, tmp_path):
    """SIGKILL while checkpoints are written one after the other."""
    out = tmp_path / "killed"
    settings = {**FEW, "max_steps": 400, "save_steps": 1, "save_total_limit": 2}
    code = (
        "import sys, json; from eyesel.train import fit_diffusion; "
        f"fit_diffusion({str(data)!r}, {str(out)!r}, {str(folders['sd1'])!r}, **json.loads(sys.argv[1]))"
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
    resumed = run_to(data, out, folders["sd1"], step + 2, resume=True, save_steps=1, save_total_limit=2)
    whole = run_to(data, tmp_path / "whole", folders["sd1"], step + 2, save_steps=1, save_total_limit=2)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_two_processes_do_what_one_does(folders, data, tmp_path):
    """gloo, each with half of the batches; buckets, LoRA and dropped captions."""
    settings = {
        **FEW,
        "logging_steps": 1,
        "caption_dropout": 0.3,
        "train_text_encoder": True,
        "base": str(folders["sd1"]),
    }
    two = {**settings, "data": str(data), "output": str(tmp_path / "two"), "per_device_train_batch_size": 1}
    code = (
        "import sys, json, torch; torch.set_num_threads(1); from eyesel.train import fit_diffusion; "
        "fit_diffusion(**json.loads(sys.argv[1]))"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(two)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    fit_diffusion(data, tmp_path / "one", **settings)
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    one, both = (
        [row["loss"] for row in map(json.loads, (tmp_path / name / "metrics.jsonl").open()) if "loss" in row]
        for name in ("one", "two")
    )
    assert len(one) == len(both) == 4
    assert all(abs(a - b) < 1e-5 for a, b in zip(one, both, strict=True)), (one, both)


# --- what goes wrong


def test_what_is_wrong_is_said_before_anything_is_written(folders, data, tmp_path):
    out, base = tmp_path / "out", folders["sd1"]
    (tmp_path / "empty").mkdir()
    for settings, words in (
        ({"data": tmp_path / "none"}, "is no folder"),
        ({"data": tmp_path / "empty"}, "there is no picture"),
        ({"learning_rat": 1e-4}, "no option 'learning_rat'"),
        ({"method": "textual-inversion", "placeholder": "<x>", "initializer": "owl"}, "has no <x>"),
        ({"method": "textual-inversion", "placeholder": "fox", "initializer": "owl"}, "a word that the base knows"),
        ({"eval_strategy": "steps", "eval_steps": 2}, "eval_strategy does nothing here"),
        ({"resolution": 36}, "resolution is 36; it must be a multiple of 8"),
    ):
        told = {"data": data, **settings}
        with pytest.raises(EyeselError, match=words):
            fit_diffusion(told.pop("data"), out, base, **{**FEW, **told})
        assert not out.exists()


def test_a_bad_picture_is_named_and_left_out(folders, data, tmp_path, capsys):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "broken.txt").write_text("a fox")
    fit_diffusion(folder, tmp_path / "out", folders["sd1"], **{**FEW, "max_steps": 1})
    said = capsys.readouterr().err
    assert "broken.png" in said
    assert "cannot be read: 1" in said
    with pytest.raises(EyeselError, match=r"broken\.png"):
        fit_diffusion(folder, tmp_path / "strict", folders["sd1"], strict=True, **FEW)
    assert not (tmp_path / "strict").exists()


def test_a_loss_that_is_no_number_stops_the_run(folders, data, tmp_path):
    with pytest.raises(EyeselError, match=r"at step \d+.*lower learning_rate|numbers that are no numbers after step"):
        fit_diffusion(
            data, tmp_path / "out", folders["sd1"], method="full", **{**FEW, "learning_rate": 1e20, "max_steps": 6}
        )
