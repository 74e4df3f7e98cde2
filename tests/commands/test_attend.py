"""`eyesel attend` as a person runs it."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from command_line import files, refused


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--method", "attention", "--layer", "0", "--head", "1"],
        ["--method", "gradient-rollout", "--class", "fox", "--mask-outliers"],
        ["--method", "gradcam", "--class", "2", "--opacity", "0.3"],
        ["--method", "norms", "--outlier-ratio", "1.1"],
        ["--method", "pca", "--layer", "1"],
    ],
)
def test_attend(run, picture, classifier, tmp_path, options):
    code, out, _ = run("attend", picture, "-m", classifier, "-o", "a.png", "--json", *options)
    entry = json.loads(out)
    assert code == 0 and entry["grid"] == [4, 4]
    assert np.shape(entry["heat"]) == ((4, 4, 3) if "pca" in options else (4, 4))
    assert entry["class"] == ("fox" if "fox" in options else "owl" if "2" in options else None)
    assert (entry["outliers"] is None) == (not {"--mask-outliers", "norms"} & set(options))
    with Image.open(tmp_path / "a.png") as overlay:
        assert overlay.width >= 512 and overlay.mode == "RGB"


def test_attend_speaks_of_what_it_did(run, picture, classifier):
    code, out, _ = run("attend", picture, "-m", classifier, "-o", "a.png", "--method", "gradcam", "--class", "fox")
    assert code == 0 and out == "a.png: gradcam of fox on 4 x 4 patches\n"
    code, out, _ = run("attend", picture, "-m", classifier, "-o", "a.png", "--mask-outliers")
    assert code == 0 and re.fullmatch(r"a.png: rollout on 4 x 4 patches, outliers: \d+\n", out)


def test_attend_writes_sheets_and_arrays(run, picture, classifier, tmp_path):
    options = ["attend", picture, "-m", classifier, "--method", "attention", "--layer", "each"]
    assert run(*options, "-o", "strip.png")[0] == 0
    assert run(*options, "-o", "maps.npy", "--head", "each")[0] == 0
    strip, maps = Image.open(tmp_path / "strip.png"), np.load(tmp_path / "maps.npy")
    assert strip.width > 4 * 256 and maps.shape == (3, 4, 4, 4)
    from eyesel import ImageClassifier

    heat = ImageClassifier.load(classifier).attention(picture, "attention", layer=2, head=1).heat
    np.testing.assert_allclose(maps[2, 1], heat.numpy(), atol=1e-6)


@pytest.mark.parametrize("method", ["rollout", "pca"])
def test_attend_to_many(run, picture, classifier, tmp_path, method):
    """One file each, in which a picture is what it is alone; only the colours of pca are shared."""
    (tmp_path / "more").mkdir()
    for name, shade in (("picture.jpg", 90), ("picture-2.png", 200)):
        Image.linear_gradient("L").point(lambda value, shade=shade: value * shade // 255).save(tmp_path / "more" / name)
    options = ["-m", classifier, "--method", method, "--batch-size", 2, "--json"]
    code, out, _ = run("attend", picture, "more", *options, "-o", "maps.npy")
    entries = json.loads(out)
    assert code == 0 and [entry["file"] for entry in entries] == [
        str(picture),
        "more/picture-2.png",
        "more/picture.jpg",
    ]
    assert [entry["output"] for entry in entries] == ["maps-picture.npy", "maps-picture-2.npy", "maps-picture-3.npy"]
    for entry in entries:
        together = np.load(tmp_path / entry["output"])
        np.testing.assert_allclose(together, entry["heat"], atol=1e-6)
        assert run("attend", entry["file"], *options, "-o", "alone.npy")[0] == 0
        assert np.allclose(np.load(tmp_path / "alone.npy"), together, atol=1e-5) == (method == "rollout")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--layer", "9"], "9"),
        (["--layer", "last"], "'last'"),
        (["--head", "9"], "9"),
        (["--discard-ratio", "1.5"], "1.5"),
        (["--method", "gradcam", "--class", "foxx"], "fox"),
        (["--method", "gradcam", "--head", "1"], "gradcam"),
        (["--class", "fox"], "gradient-rollout"),
        (["--opacity", "2"], "2"),
        (["--batch-size", "0"], "0"),
        (["-o", "a.txt"], ".txt"),
    ],
    ids=str,
)
def test_attend_refuses(run, picture, classifier, tmp_path, options, word):
    refused(run("attend", picture, "-m", classifier, "-o", "a.png", *options), word)
    assert files(tmp_path) == ["picture.png"]
