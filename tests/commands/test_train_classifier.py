"""`eyesel train classifier ...`"""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from command_line import refused

SHEET = Path(__file__).parents[1] / "data" / "compositions.png"


@pytest.fixture
def photos(tmp_path):
    sheet = Image.open(SHEET).convert("RGB")
    for i in range(3):
        (tmp_path / "photos" / f"kind {i}").mkdir(parents=True)
        for shift in range(4):
            sheet.crop((32 * i, shift, 32 * i + 32, 32 + shift)).save(
                tmp_path / "photos" / f"kind {i}" / f"{shift}.png"
            )
    return tmp_path / "photos"


QUICK = ("--max-steps", 2, "--use-cpu", "--tune", "head")


def test_from_a_folder_to_a_model(run, photos, classifier, tmp_path):
    (photos / "kind 1" / "9.png").write_bytes(b"nothing")
    code, out, err = run("train", "classifier", photos, "-o", "mine", "-b", classifier, *QUICK)
    assert code == 0 and "mine: " in out and "of the validation pictures right" in out
    assert "tells 7 other classes (cat, fox, owl, ...) and is left out; a new head for 3 classes" in err
    assert "9.png" in err and "cannot be read: 1" in err
    code, out, _ = run("classify", photos / "kind 0" / "0.png", "-m", "mine", "--json", "--top-k", 9)
    assert {p["label"] for p in json.loads(out)[0]["predictions"]} == {"kind 0", "kind 1", "kind 2"}
    code, out, err = run("train", "classifier", photos, "-o", "mine", "-b", classifier, *QUICK, "--resume")
    assert (code, out) == (0, "mine: the run is finished already\n")
    code, out, _ = run("train", "classifier", photos, "-o", "mine", "-b", classifier, *QUICK, "--force", "--json")
    assert code == 0 and "eval_accuracy" in json.loads(out)


def test_options_stand_anywhere(run, photos, classifier):
    before, after = ("--seed", 3, "--no-use-cpu"), ("-o", "mine", "-b", classifier, "--use-cpu", "--max-steps", 1)
    code, _, err = run("train", "classifier", *before, photos, "--bf16", *after, "--tune", "head")
    assert code == 0, err
    record = json.loads(Path("mine/run.json").read_text())
    assert (record["arguments"]["seed"], record["arguments"]["bf16"]) == (3, True)
    refused(run("train", "classifier", "--tunee", "head", photos, "-o", "x"), "no option 'tunee'; is it tune")
    refused(run("train", "classifier", photos, "more", "-o", "x"), "'more' belongs to no option")


def test_what_is_refused(run, photos, classifier, tmp_path):
    def trained(*options):
        return run("train", "classifier", *options)

    refused(trained(photos, "-o", "x", "--learning-rat", "1"), "learning_rate")
    refused(trained(photos, "-o", "x", "--learning-rate", "-1"), "learning_rate is -1.0")
    refused(trained(photos, "-o", "x", "--tune", "half", "-b", classifier), "half")
    refused(trained(photos, "-o", "x", "--tune", "last-9", "-b", classifier), "3 layers")
    refused(trained(photos, "-o", "x", "--tune", "lora", "--lora-targets", "to_x", "-b", classifier), "to_x")
    refused(trained(photos, "-o", "x", "--crop", 2), "crop is 2")
    refused(trained("nothing", "-o", "x"), "nothing does not exist")
    refused(trained("nothing/", "-o", "x"), "nothing/ does not exist")
    refused(trained(photos, "-o", photos, *QUICK, "-b", classifier), "holds no run of eyesel")
    refused(trained(photos, "-o", "x", *QUICK, "-b", classifier, "--resume"), "no run to go on with")
    (photos / "kind 1" / "9.png").write_bytes(b"nothing")
    refused(trained(photos, "-o", "x", *QUICK, "-b", classifier, "--strict"), "9.png")
    shutil.rmtree(photos / "kind 1")
    shutil.rmtree(photos / "kind 2")
    refused(trained(photos, "-o", "x", *QUICK, "-b", classifier), "one class, 'kind 0'")
    assert not (tmp_path / "x").exists()
