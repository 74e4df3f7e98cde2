"""What a run leaves: folders that transformers and PEFT open, tables and pictures."""

import json

import peft
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

import eyesel
from eyesel.train import fit_classifier
from eyesel.weights.card import read_card
from tiny_models import write_classifier

QUICK = {"max_steps": 3, "use_cpu": True, "learning_rate": 1e-2, "seed": 3}


def logits(model, eye, picture):
    with torch.no_grad():
        return model(eye.transform([picture])).logits[0]


@pytest.fixture
def picture(pictures):
    return Image.open(pictures / "b" / "3.png").convert("RGB")


def test_a_folder_of_transformers(tmp_path, pictures, base, picture):
    eye = fit_classifier(pictures, tmp_path / "out", base, **QUICK)
    assert eye.labels == ("a", "b", "c", "d")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.id2label == dict(enumerate("abcd"))
    assert (logits(theirs, eye, picture) - eye.logits(picture)).abs().max() <= 1e-4
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    assert torch.equal(processor(picture, return_tensors="pt")["pixel_values"], eye.transform([picture]))
    weights = load_file(tmp_path / "out" / "model.safetensors")
    before = load_file(base / "model.safetensors")
    changed = [name for name in weights if name in before and not torch.equal(weights[name], before[name])]
    assert len(changed) > 20  # fully trained


def test_the_files(tmp_path, pictures, base):
    out = tmp_path / "out"
    fit_classifier(pictures, out, base, **QUICK, tune="head", logging_steps=1, report_to="tensorboard")
    results = json.loads((out / "all_results.json").read_text())
    assert {"train_loss", "eval_loss", "eval_accuracy", "eval_f1", "train_images_per_second"} <= set(results)
    assert 0 <= results["train_data_wait"] <= 1 and results["eval_accuracy"] * 4 == int(results["eval_accuracy"] * 4)
    for name in ("train_results.json", "eval_results.json"):
        assert set(json.loads((out / name).read_text())) < set(results)
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if "loss" in row] == [1, 2, 3]
    for name in ("curves.png", "confusion.png", "mistakes.png"):
        assert min(Image.open(out / name).size) > 100
    card = (out / "README.md").read_text()
    assert "| validation | 4 | " in card and "`" + str(base) + "`" in card and "| torch | " in card
    assert "image-classification" in read_card(out).tags
    assert json.loads((out / "run.json").read_text())["finished"] is True
    assert any((out / "runs").rglob("events.out.tfevents.*"))
    assert eyesel.ImageClassifier.load(out).classify(pictures / "a" / "0.png")[0].label in "abcd"


@pytest.mark.parametrize("targets", [("to_q", "to_v"), ("to_k", "to_out", "fc1", "fc2")])
def test_lora_opens_in_peft(tmp_path, pictures, base, picture, targets):
    """The adapter on the base, and the folder with everything merged, are the same network; the base's weights stay."""
    out = tmp_path / "out"
    eye = fit_classifier(pictures, out, base, **QUICK, tune="lora", lora_rank=4, lora_alpha=8, lora_targets=targets)
    plain = transformers.AutoModelForImageClassification.from_pretrained(
        base, num_labels=4, ignore_mismatched_sizes=True
    )
    adapted = peft.PeftModel.from_pretrained(plain, out / "adapter").eval()
    assert (logits(adapted, eye, picture) - eye.logits(picture)).abs().max() <= 1e-4
    merged = transformers.AutoModelForImageClassification.from_pretrained(out).eval()
    assert (logits(merged, eye, picture) - eye.logits(picture)).abs().max() <= 1e-4
    own, before = (load_file(folder / "model.safetensors") for folder in (out, base))
    assert any(not torch.equal(own[name], before[name]) for name in own if "query" in name or "key" in name)
    assert torch.equal(own["vit.embeddings.position_embeddings"], before["vit.embeddings.position_embeddings"])


def test_the_best_checkpoint_is_kept_and_stops_early(tmp_path, pictures, base):
    """A learning rate that only spoils: the best weights are an early checkpoint's, and training ends there."""
    out = tmp_path / "out"
    told = {"learning_rate": 0.5, "num_train_epochs": 20, "early_stopping": 2, "use_cpu": True, "weight_decay": 0.0}
    eye = fit_classifier(pictures, out, base, **told, crop=1.0)
    state = json.loads((out / "trainer_state.json").read_text())
    assert state["global_step"] < state["max_steps"]
    best = load_file(out / f"checkpoint-{state['best_global_step']}" / "model.safetensors")
    assert torch.equal(best["model.classifier.weight"], eye.model.classifier.weight)
    assert json.loads((out / "all_results.json").read_text())["eval_accuracy"] == pytest.approx(state["best_metric"])


def test_timm_and_other_sizes(tmp_path, pictures, picture):
    base = write_classifier(tmp_path / "base", layer_norm_eps=1e-6)  # what timm computes with
    eye = fit_classifier(pictures, tmp_path / "out", base, **QUICK, format="timm", image_size=48, class_weights=True)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [3, 48, 48] and config["num_classes"] == 4
    assert eye.model.config.image_size == (48, 48) and eye.logits(picture).shape == (4,)
