"""`eyesel models`: what is here, what is in it, and converting it."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from command_line import files, refused
from tiny_models import write_standard_painter


@pytest.fixture(scope="session")
def standard(tmp_path_factory):
    return write_standard_painter(tmp_path_factory.mktemp("standard") / "folder", "sd1")


def test_models(run, painter, classifier):
    code, out, _ = run("models", "list", "--json")
    assert code == 0 and {(m["name"], m["kind"]) for m in json.loads(out)} >= {
        ("tiny", "classifier"),
        ("tiny", "painter"),
    }
    code, out, _ = run("models", "show", painter, "--json")
    [facts] = json.loads(out)
    assert code == 0 and facts["is"] == "a Stable Diffusion checkpoint"
    assert facts["parts"]["unet"]["parameters"] > 0 and facts["parts"]["scheduler"]["prediction"] == "epsilon"
    code, out, _ = run("models", "show", classifier)
    assert code == 0 and "a Vision Transformer" in out
    code, out, _ = run("models", "show", "tiny")
    assert code == 0 and "UNet2DConditionModel" in out and "a Vision Transformer" in out


def test_convert_a_classifier(run, picture, classifier, tmp_path):
    """From transformers to timm and back: the same tensors, labels and scores."""
    code, out, err = run("models", "convert", classifier, "timm", "--format", "timm")
    assert code == 0 and out == "timm: a Vision Transformer with 7 classes, for timm\n" and "norm_eps" in err
    code, out, _ = run("models", "convert", "timm", "again", "--format", "transformers", "--json")
    assert code == 0 and json.loads(out) == {"output": "again", "format": "transformers", "classes": 7}
    before, after = (load_file(folder / "model.safetensors") for folder in (classifier, tmp_path / "again"))
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)
    answers = [run("classify", picture, "-m", m, "--json") for m in ("timm", "again")]
    assert answers[0][1] == answers[1][1] and answers[0][2] == ""
    refused(run("models", "convert", classifier, "timm", "--format", "timm"), "exists", "--force")
    refused(run("models", "convert", classifier, "x.bin", "--format", "timm"), "x.bin", "folder")
    refused(run("models", "convert", classifier, "x", "--format", "timm", "--ema"), "classifiers", "ema")
    refused(run("models", "convert", classifier, "x", "--format", "timm", "--dtype", "int3"), "int3")
    assert files(tmp_path) == ["again", "picture.png", "timm"]
    assert run("models", "convert", classifier, "timm", "--format", "timm", "--force")[0] == 0


def test_convert_show_and_generate(run, standard, tmp_path):
    """A folder becomes a single file and a folder again; each paints the same picture."""
    code, out, _ = run("models", "convert", standard, "m.safetensors", "--format", "single-file", "--json")
    assert code == 0 and json.loads(out)["family"] == "Stable Diffusion 1"
    code, out, _ = run("models", "show", "m.safetensors")
    assert code == 0 and re.search(r"prediction: +epsilon\nknown from: +metadata", out)
    code, out, _ = run("models", "convert", "m.safetensors", "folder", "--format", "diffusers", "--dtype", "float16")
    assert code == 0 and out == "folder: Stable Diffusion 1, epsilon (metadata)\n"
    assert files(tmp_path) == ["folder", "m.safetensors"]
    options = ["--steps", 1, "--seed", 7, "--size", "64x64", "--precision", "float32"]
    vae = tmp_path / "folder" / "vae" / "diffusion_pytorch_model.safetensors"
    for name, extra in {"a": [standard], "b": ["m.safetensors"], "c": ["m.safetensors", "--vae", vae]}.items():
        assert run("generate", "a fox", "-m", *extra, *options, "-o", f"{name}.png")[0] == 0
    a, b, c = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in "abc")
    assert abs(a - b).max() <= 1 and abs(a - c).max() <= 8
    refused(run("models", "convert", "m.safetensors", "folder", "--format", "diffusers"), "exists", "--force")
    refused(run("generate", "a fox", "-m", "m.safetensors", "--ema", *options), "averaged", "ema")
    refused(run("generate", "a fox", "-m", "m.safetensors", "--prediction-type", "w", *options), "'w'", "epsilon")
    refused(run("generate", "a fox", "-m", "m.safetensors", "--vae", "none.pt", *options), "none.pt")
