"""Whole runs of the painter's fine-tuning: what is written opens elsewhere, and what goes wrong is said."""

import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from eyesel.errors import EyeselError
from eyesel.stable_diffusion import StableDiffusion
from eyesel.train import fit_diffusion
from eyesel.train.diffusion.prior import check_apart
from eyesel.train.diffusion.settings import Settings
from eyesel.weights.clip_format import CLIP_TEXT
from eyesel.weights.diffusers_format import UNET
from eyesel.weights.files import read_tensor_metadata
from short_runs import FEW

TAGS = {"a small fox": 2, "a large fox": 2, "red": 4}
PAINT = {"steps": 3, "guidance": 2.0, "seed": 4}


def picture(painter, prompt="a small fox", size=(64, 64), **others):
    return np.asarray(painter.generate(prompt, size=size, **{**PAINT, **others}).image).astype(float)


def same(one, other):
    return np.abs(one - other).max() <= 1


def test_lora_opens_in_both_spellings_and_in_diffusers(painters, captioned, tmp_path):
    for family in ("sd1", "sd2", "sdxl"):
        out, base = tmp_path / family, painters[family]
        settings = {"rank": 2, "alpha": 4.0, "targets": "all", "train_text_encoder": True, "shuffle_tags": True}
        trained = fit_diffusion(captioned, out, base, method="lora", **settings, **FEW)
        plain = StableDiffusion.load(base, device="cpu", precision="float32")
        assert not same(picture(trained), picture(plain))
        kohya = plain.with_loras([out / f"{family}.safetensors"])
        diffusers_spelling = plain.with_loras([out / "pytorch_lora_weights.safetensors"])
        assert same(picture(kohya), picture(diffusers_spelling))
        told = read_tensor_metadata(out / f"{family}.safetensors")
        assert (told["ss_network_dim"], told["ss_network_alpha"]) == ("2", "4")
        assert told["ss_base_model_version"].startswith({"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_"}[family])
        assert json.loads(told["ss_tag_frequency"]) == {captioned.name: TAGS}
        assert json.loads(told["ss_dataset_dirs"]) == {captioned.name: {"n_repeats": 1, "img_count": 4}}
        buckets = json.loads(told["ss_bucket_info"])["buckets"].values()
        assert sum(bucket["count"] for bucket in buckets) == 4
        with pytest.raises(EyeselError, match="This is a LoRA, which goes beside a model as --lora"):
            StableDiffusion.load(out)
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
def test_full_training_gives_a_folder_of_diffusers(painters, captioned, tmp_path, family):
    out = tmp_path / "full"
    trained = fit_diffusion(
        captioned, out, painters[family], method="full", ema=0.5, train_text_encoder=True, caption_dropout=0.3, **FEW
    )
    ours = our_weights(StableDiffusion.load(out, device="cpu", precision="float32"))
    theirs = fused_weights(diffusers.DiffusionPipeline.from_pretrained(out))
    before = our_weights(StableDiffusion.load(painters[family], device="cpu", precision="float32"))
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


def test_a_base_in_half_precision_is_trained_and_goes_on(painters, captioned, tmp_path):
    """Weights that are converted when they are opened lie in memory in another order than files know."""
    base = tmp_path / "half"
    diffusers.DiffusionPipeline.from_pretrained(painters["sd1"], torch_dtype=torch.float16).save_pretrained(base)
    out = tmp_path / "out"
    run = {**FEW, "method": "full", "ema": 0.9, "max_steps": 4}
    fit_diffusion(captioned, out, base, **run)
    whole = load_file(out / "checkpoint-4/model.safetensors")
    shutil.rmtree(out / "checkpoint-4")
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "finished": False}))
    fit_diffusion(captioned, out, base, resume=True, **run)
    again = load_file(out / "checkpoint-4/model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_textual_inversion_opens_in_diffusers(painters, captioned, tmp_path):
    out = tmp_path / "word"
    words = {"placeholder": "<new>", "initializer": "fox", "vectors": 2}
    trained = fit_diffusion(
        _alone(captioned, tmp_path), out, painters["sd1"], method="textual-inversion", **words, **FEW
    )
    assert trained.prompt_encoder.words.ids["<new>"] == range(-3, -5, -1)  # after those of the file
    vectors = load_file(out / "learned_embeds.safetensors")["<new>"]
    pipeline = diffusers.DiffusionPipeline.from_pretrained(painters["sd1"])
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


def test_textual_inversion_of_xl_has_vectors_for_both(painters, captioned, tmp_path):
    out = tmp_path / "word"
    trained = fit_diffusion(
        _alone(captioned, tmp_path), out, painters["sdxl"], method="textual-inversion", placeholder="<new>",
        initializer="fox", **FEW,
    )  # fmt: skip
    assert load_file(out / "learned_embeds.safetensors").keys() == {"clip_l", "clip_g"}
    assert "learned_embeds" in trained.prompt_encoder.words.ids


def _alone(captioned, tmp_path):
    folder = tmp_path / "alone"
    folder.mkdir()
    shutil.copy(captioned / "0.png", folder)
    return folder


def test_inpainting_widens_and_paints(painters, captioned, tmp_path):
    out = tmp_path / "inpaint"
    with pytest.warns(UserWarning, match="widened from 4 to 9"):
        trained = fit_diffusion(captioned, out, painters["sd1"], method="inpaint", **FEW)
    assert trained.inpaints
    pipeline = diffusers.DiffusionPipeline.from_pretrained(out)
    assert type(pipeline).__name__ == "StableDiffusionInpaintPipeline"
    assert pipeline.unet.config.in_channels == 9
    image = Image.open(captioned / "0.png").convert("RGB")
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (0, 0, 32, 64))
    again = trained.inpaint(image, mask, "a fox", **PAINT).image
    assert np.array_equal(np.asarray(again)[:, 48:], np.asarray(image)[:, 48:])
    more = fit_diffusion(captioned, tmp_path / "more", out, method="lora", **FEW)  # of a base that repaints
    assert more.inpaints


def test_dreambooth_paints_its_class(painters, captioned, tmp_path):
    out = tmp_path / "booth"
    fit_diffusion(
        captioned, out, painters["sd1"], method="dreambooth", lora=True, instance_prompt="a red fox",
        class_prompt="a fox", class_pictures=3, **FEW,
    )  # fmt: skip
    painted = sorted(path.name for path in (out / "class").iterdir())
    assert painted == ["class-00000.png", "class-00001.png", "class-00002.png"]
    told = read_tensor_metadata(out / "booth.safetensors")
    assert (told["ss_num_train_images"], told["ss_num_reg_images"]) == ("4", "3")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "\n4 pictures, beside 3 of what is to be kept, method dreambooth:" in card


def test_a_lora_keeps_what_a_folder_with_captions_shows(painters, captioned, tmp_path):
    """kohya's regularisation folder, whose folder names say how often and what: 6 draws, and as many of the rest."""
    kept = tmp_path / "kept"
    for name, colour in (("5_an owl", "blue"), ("1_a hat", "green")):
        (kept / name).mkdir(parents=True)
        Image.new("RGB", (64, 64), colour).save(kept / name / "0.png")
    out = tmp_path / "mine"
    settings = {**FEW, "num_train_epochs": 1, "max_steps": -1, "per_device_train_batch_size": 1}
    fit_diffusion(captioned, out, painters["sd1"], method="lora", class_data=str(kept), prior_weight=0.5, **settings)
    told = read_tensor_metadata(out / "mine.safetensors")
    assert (told["ss_num_train_images"], told["ss_num_reg_images"], told["ss_steps"]) == ("4", "2", "12")
    assert json.loads(told["ss_tag_frequency"]) == {captioned.name: TAGS}
    with pytest.raises(EyeselError, match="nowhere is no folder"):
        fit_diffusion(captioned, tmp_path / "other", painters["sd1"], class_data="nowhere", **FEW)
    assert not (tmp_path / "other").exists()
    (kept / "1_a hat").rename(kept / "1_a cap")
    with pytest.raises(EyeselError, match="the pictures of class_data, their names"):
        fit_diffusion(captioned, out, painters["sd1"], resume=True, class_data=str(kept), prior_weight=0.5, **settings)


def test_what_is_to_be_kept_lies_apart_from_the_data_and_the_run(captioned, tmp_path):
    """The base would paint among the data."""
    before = sorted(tmp_path.rglob("*"))
    for data, kept, out in (
        (captioned, captioned, tmp_path / "mine"),
        (captioned, captioned / "kept", tmp_path / "mine"),
        (captioned, captioned.parent, tmp_path / "mine"),
        (captioned, tmp_path / "kept", tmp_path / "kept" / "mine"),
    ):
        with pytest.raises(EyeselError, match=r"keep them apart|choose a place outside"):
            check_apart(data, out, Settings(class_data=str(kept), class_prompt="a fox"))
    check_apart(captioned, tmp_path / "kept2", Settings(class_data=str(tmp_path / "kept")))
    assert sorted(tmp_path.rglob("*")) == before


# --- what goes wrong


def test_what_is_wrong_is_said_before_anything_is_written(painters, captioned, tmp_path):
    out, base = tmp_path / "out", painters["sd1"]
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
        told = {"data": captioned, **settings}
        with pytest.raises(EyeselError, match=words):
            fit_diffusion(told.pop("data"), out, base, **{**FEW, **told})
        assert not out.exists()


def test_a_bad_picture_is_named_and_left_out(painters, captioned, tmp_path, capsys):
    folder = tmp_path / "data"
    shutil.copytree(captioned, folder)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "broken.txt").write_text("a fox")
    fit_diffusion(folder, tmp_path / "out", painters["sd1"], **{**FEW, "max_steps": 1})
    said = capsys.readouterr().err
    assert "broken.png" in said
    assert "cannot be read: 1" in said
    with pytest.raises(EyeselError, match=r"broken\.png"):
        fit_diffusion(folder, tmp_path / "strict", painters["sd1"], strict=True, **FEW)
    assert not (tmp_path / "strict").exists()


def test_a_loss_that_is_no_number_stops_the_run(painters, captioned, tmp_path):
    with pytest.raises(EyeselError, match=r"at step \d+.*lower learning_rate|numbers that are no numbers after step"):
        fit_diffusion(
            captioned,
            tmp_path / "out",
            painters["sd1"],
            method="full",
            **{**FEW, "learning_rate": 1e20, "max_steps": 6},
        )
