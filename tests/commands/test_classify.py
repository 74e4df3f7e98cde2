"""`eyesel classify` as a person runs it."""

import json
import re

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from command_line import refused
from tiny_models import write_classifier


def test_classify(run, picture, classifier):
    code, out, err = run("classify", picture, "--model", classifier, "--top-k", 3, "--json")
    assert code == 0 and err == ""
    [entry] = json.loads(out)
    assert entry["file"] == str(picture)
    assert [set(p) for p in entry["predictions"]] == [{"label", "score"}] * 3
    scores = [p["score"] for p in entry["predictions"]]
    assert scores == sorted(scores, reverse=True)
    code, out, _ = run("classify", picture, "--model", classifier)
    assert code == 0 and entry["predictions"][0]["label"] in out.splitlines()[1]


def test_classify_a_folder_and_a_glob(run, picture, classifier, tmp_path):
    for i in range(10):
        Image.new("RGB", (8, 8), (25 * i, 0, 0)).save(tmp_path / f"{i}.png")
    for argument in (tmp_path, str(tmp_path / "*.png")):
        code, out, _ = run("classify", argument, "--model", classifier, "--json", "--batch-size", 4)
        assert code == 0 and len(json.loads(out)) == 11


def test_classify_raw_numbers_and_another_size(run, picture, classifier, tmp_path):
    code, out, _ = run("classify", picture, "-m", classifier, "--function-to-apply", "sigmoid", "--json")
    scores = [p["score"] for p in json.loads(out)[0]["predictions"]]
    assert code == 0 and len(scores) == 5 and sum(scores) > 1
    code, out, _ = run("classify", picture, "-m", classifier, "--function-to-apply", "none", "--image-size", 48)
    assert code == 0 and "%" not in out and re.search(r"^ +-?\d+\.\d{4}  \w+$", out.splitlines()[1])
    regression = write_classifier(tmp_path / "age", problem_type="regression", id2label={0: "age"}, label2id={"age": 0})
    code, out, _ = run("classify", picture, "-m", regression)
    assert code == 0 and re.search(r"^ +-?\d+\.\d{4}  age$", out.splitlines()[1])


def test_a_file_of_weights_alone(run, picture, classifier, tmp_path, capsys):
    """No config.json and no preprocessor: opened by convention, and all of that is said."""
    (tmp_path / "w.safetensors").write_bytes((classifier / "model.safetensors").read_bytes())
    refused(run("classify", picture, "-m", "w.safetensors"), "width 48", "config.json")
    (tmp_path / "cut.npz").write_bytes(b"PK")
    refused(run("classify", picture, "-m", "cut.npz"), "complete", "download it again")
    wide = write_classifier(tmp_path / "wide", hidden_size=64, num_attention_heads=1)
    for name in ("config.json", "preprocessor_config.json"):
        (wide / name).unlink()
    capsys.readouterr()  # what transformers shows while it saves
    code, out, err = run("classify", picture, "-m", wide / "model.safetensors", "--json")
    assert code == 0 and json.loads(out)[0]["predictions"][0]["label"].startswith("LABEL_")
    notes = err.strip().splitlines()
    assert len(notes) == 3 and all(note.startswith("eyesel: note: ") for note in notes)
    assert "heads of 64 channels" in notes[0] and "[-1, 1]" in notes[1] and "no labels" in notes[2]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "1", "I;16", "F"])
def test_every_mode_is_classified(run, classifier, tmp_path, mode):
    image = Image.new(mode, (20, 30))
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.tiff" if mode == "F" else "x.png")
    image.save(path)
    assert run("classify", path, "-m", classifier)[0] == 0


def test_a_model_of_nans_is_not_believed(run, picture, tmp_path, capsys):
    folder = write_classifier(tmp_path / "nan")
    state = load_file(folder / "model.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in state.items()}, folder / "model.safetensors")
    capsys.readouterr()  # what transformers shows while it saves
    refused(run("classify", picture, "-m", folder, "--json"), "no numbers")


def test_classify_refuses(run, picture, classifier):
    refused(run("classify", picture, "-m", classifier, "--top-k", 0), "0")
