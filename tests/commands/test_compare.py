"""`eyesel compare`: the bundled models beside others that were trained differently."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from command_line import files, refused
from eyesel import ImageClassifier

SHEET = Path(__file__).parents[1] / "data" / "compositions.png"


@pytest.fixture
def photos(tmp_path):
    """32 compositions in folders named by what the bundled classifier sees, which is right of all of them."""
    sheet, eye = Image.open(SHEET), ImageClassifier.load("tiny")
    for i, (x, y) in enumerate((x, y) for y in range(0, sheet.height, 32) for x in range(0, sheet.width, 32)):
        picture = sheet.crop((x, y, x + 32, y + 32)).convert("RGB")
        label = eye.classify(picture, 1)[0].label
        (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "photos" / label / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def other(tmp_path, photos):
    """The bundled body under a head that was trained anew, from zero and on half of the pictures."""
    eye = ImageClassifier.load("tiny")
    pictures = sorted(photos.rglob("*.png"))[::2]
    vectors = torch.from_numpy(eye.embed(pictures))
    truth = torch.tensor([eye.labels.index(path.parent.name) for path in pictures])
    head = eye.model.classifier
    weight, bias = (torch.zeros_like(p, requires_grad=True) for p in (head.weight, head.bias))
    optimiser = torch.optim.Adam([weight, bias], lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(vectors @ weight.T + bias, truth).backward()
        optimiser.step()
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    eye.save(tmp_path / "other")
    return tmp_path / "other"


def test_two_classifiers_trained_differently(run, photos, other, tmp_path):
    (photos / "unicorn").mkdir()
    Image.new("RGB", (8, 8)).save(photos / "unicorn" / "1.png")
    code, out, err = run("compare", "tiny", other, "--data", photos, "--json", "-o", "report.md")
    assert code == 0 and err == ""
    told = json.loads(out)
    first, second = told["models"]
    assert first["parameters"] == second["parameters"] == 1_212_864
    assert first["licence"] == "apache-2.0" and second["licence"] is None
    assert first["accuracy"] == 1 and 0.4 < second["accuracy"] < 0.7  # it has never seen the other half's labels
    assert told["ranks"]["accuracy"] == [1, 2] and told["chance"] < 0.01
    assert told["verdict"].startswith("tiny is right more often (100.0 % against")
    assert sum(row["pictures"] for row in told["per_class"]) == 32
    assert told["per_class"][0]["accuracy"] == [1, 0]
    assert told["notes"][0] == "tiny does not know 1 of the labels (unicorn), which were left out"
    for each in told["models"]:
        assert all(found["can"] for found in each["capabilities"].values()), each["capabilities"]
        assert each["images_per_second_1"] > 0 and each["peak_bytes"] > 5e7
    report = (tmp_path / "report.md").read_text()
    assert told["verdict"] in report and "| unicorn" not in report
    refused(run("compare", "tiny", other, "-o", "report.md"), "exists already", "--force")


def test_a_classifier_and_a_painter(run, painter, tmp_path):
    (tmp_path / "prompts.txt").write_text("a large fox on a blue background\tfox\n")
    code, out, _ = run("compare", "tiny", painter, "--kind", "classifier,painter", "--prompts", "prompts.txt")
    assert code == 0 and "They do different things" in " ".join(out.split())
    assert "by blending" in out and "softmax" in out and "Stable" in out


def test_time_is_limited(run, classifier):
    code, out, _ = run("compare", "tiny", classifier, "--time-limit", 0.01, "--json")
    told = json.loads(out)
    assert code == 0 and {found["can"] for found in told["models"][0]["capabilities"].values()} == {None}
    assert told["models"][0]["peak_bytes"] is None and "unknown" in told["verdict"]
    assert "stopped after 0.01 s" in told["notes"][0]


def test_bad_requests(run, photos, painter, tmp_path):
    refused(run("compare", "tiny", "tinny"), "did you mean tiny")
    refused(run("compare", "tiny", "tiny", "--data", tmp_path / "nowhere"), "is no folder")
    refused(run("compare", "tiny", "tiny", "--prompts", "p.txt"), "--prompts is for painters")
    refused(run("compare", "tiny", painter, "--data", photos), "--data is for classifiers")
    refused(run("compare", "tiny", "tiny", "-o", "report.pdf"), ".pdf", ".md")
    refused(run("compare", "tiny", "tiny", "--time-limit", 0), "--time-limit")
    (tmp_path / "p.txt").write_text("a fox\n")
    refused(run("compare", "tiny", painter, "--prompts", "p.txt"), "a tab and a label")
    (tmp_path / "odd" / "unicorn").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "odd" / "unicorn" / "1.png")
    refused(run("compare", "tiny", "tiny", "--data", tmp_path / "odd"), "no picture with a label that the models know")
    assert files(tmp_path) == ["odd", "p.txt", "photos"]
