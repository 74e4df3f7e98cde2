"""`eyesel stylize` as a person runs it."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from command_line import files, refused

QUICK = ("--steps", 2)


def draw(path, size=(32, 32), seed=0, mode="RGB"):
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def pictures(run, tmp_path):
    draw("content.png", (40, 27))
    draw("style.png", (64, 32), seed=1)
    (tmp_path / "styles").mkdir()
    draw("styles/a.png", seed=2)
    draw("styles/b.jpg", (50, 80), seed=3, mode="L")


def test_a_picture_in_the_style_of_another(run, pictures, tmp_path):
    code, out, err = run("stylize", "content.png", "style.png", *QUICK, "-o", "out.png")
    assert (code, err) == (0, "")
    assert out == "out.png: 40x27, strength 0.5\n"
    assert pixels("out.png").shape == (27, 40, 3)
    code, out, _ = run("show", "out.png")
    assert code == 0
    for words in ("content.png", "style.png", r"style gamma: +0.75", r"style layers: +1, 2, 3"):
        assert re.search(words, out), out
    assert run("stylize", "content.png", "style.png", *QUICK, "-o", "again.png")[0] == 0
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_strength_zero_is_the_content(run, pictures):
    assert run("stylize", "content.png", "style.png", "--strength", 0, "-o", "out.png")[0] == 0
    assert np.array_equal(pixels("out.png"), pixels("content.png"))


def test_a_folder_of_styles_is_a_batch_with_a_sheet(run, pictures, tmp_path):
    code, out, _ = run("stylize", "content.png", "styles", *QUICK, "-o", "out.png", "--grid", "grid.png", "--json")
    assert code == 0
    assert [each["file"] for each in json.loads(out)] == ["out-a.png", "out-b.png"]
    assert {"out-a.png", "out-b.png", "grid.png"} <= set(files(tmp_path))
    assert pixels("grid.png").shape == (2 * 33 + 6, 3 * 46 + 6, 3)
    assert np.array_equal(pixels("grid.png")[39:66, 52:92], pixels("out-a.png"))


def test_contents_by_styles(run, pictures, tmp_path):
    (tmp_path / "contents").mkdir()
    draw("contents/x.png", seed=5)
    draw("contents/y.png", (24, 32), seed=6)
    assert run("stylize", "contents", "styles", *QUICK, "-o", "out.webp")[0] == 0
    assert {f"out-{c}-{s}.webp" for c in "xy" for s in "ab"} <= set(files(tmp_path))


def test_styles_are_mixed_by_weight(run, pictures):
    mixed = ("--style", "style.png:3", "--style", "styles/a.png")
    code, out, _ = run("stylize", "content.png", *mixed, *QUICK, "-o", "out.png", "--json")
    assert code == 0
    (record,) = json.loads(out)
    assert (record["styles"], record["style_weights"]) == (["style.png", "a.png"], [0.75, 0.25])


def test_a_strip_and_a_slider(run, pictures, tmp_path):
    pair = ("content.png", "style.png")
    code, out, _ = run("stylize", *pair, *QUICK, "-o", "out.png", "--strip", "strip.png", "--slider", "slider.html")
    assert code == 0
    assert out.splitlines()[1:] == ["strip.png: strip", "slider.html: slider"]
    strip = pixels("strip.png")
    assert strip.shape == (27 + 12, 5 * 46 + 6, 3)
    assert np.array_equal(strip[6:33, 6:46], pixels("content.png"))
    assert np.array_equal(strip[6:33, 6 + 2 * 46 : 46 + 2 * 46], pixels("out.png"))
    page = (tmp_path / "slider.html").read_text()
    assert "http" not in page
    before, after = (base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)", page))
    assert np.array_equal(pixels(io.BytesIO(before)), pixels("content.png"))
    assert np.array_equal(pixels(io.BytesIO(after)), pixels("out.png"))


def test_only_under_the_mask(run, pictures):
    mask = np.zeros((27, 40), np.uint8)
    mask[4:13, 11:30] = 255
    Image.fromarray(mask).save("mask.png")
    assert run("stylize", "content.png", "style.png", "--content-mask", "mask.png", *QUICK, "-o", "out.png")[0] == 0
    outside = mask == 0
    assert np.array_equal(pixels("out.png")[outside], pixels("content.png")[outside])
    assert not np.array_equal(pixels("out.png")[~outside], pixels("content.png")[~outside])


def test_every_knob_at_once(run, pictures, tmp_path):
    knobs = ("--gamma", 0.3, "--temperature", 2, "--layers", "up_blocks.1,0", "--color", 0.5, "--longest", 24)
    more = ("--prompt", "a fox", "--guidance", 2, "--looks", 2, "--keep-features", "--cache", "cache", "--enlarge", 2)
    code, out, err = run("stylize", "content.png", "style.png", *QUICK, *knobs, *more, "-o", "out.png", "--json")
    assert (code, err) == (0, "")
    (record,) = json.loads(out)
    assert record["style_layers"] == [0, 2, 3]
    assert pixels("out.png").shape == (32, 48, 3)
    assert len(files(tmp_path / "cache")) == 2
    assert run("stylize", "content.png", "style.png", *QUICK, "--faithful", "-o", "out.png")[0] == 0


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_pictures_of_any_mode(run, pictures, mode):
    draw("odd.tif", (33, 17), mode=mode)
    assert run("stylize", "odd.tif", "style.png", *QUICK, "-o", "out.png")[0] == 0
    assert pixels("out.png").shape == (17, 33, 3)


def test_bad_input_is_one_sentence(run, pictures, tmp_path):
    (tmp_path / "styles" / "c.png").write_bytes((tmp_path / "style.png").read_bytes()[:200])
    draw("dot.png", (1, 1))
    draw("mask.png", (32, 32), mode="L")
    before = files(tmp_path)
    pair = ("content.png", "style.png")
    for arguments, *words in (
        (("content.png", "styles"), "c.png", "damaged"),
        (("dot.png", "style.png"), "dot.png", "1x1"),
        (("content.png", "dot.png"), "dot.png", "1x1"),
        ((*pair, "--layers", "12"), "no layer '12'", "3 (up_blocks.1.attentions.1)"),
        ((*pair, "--strength", "1.5"), "strength is 1.5"),
        ((*pair, "--strength", "a lot"), "balanced"),
        ((*pair, "--content-mask", "mask.png"), "32x32", "40x27"),
        ((*pair, "--content-mask", "none.png"), "none.png does not exist"),
        ((*pair, "--style", "style.png"), "either"),
        (("content.png",), "either"),
        (("content.png", "--style", "style.png:x"), "FILE:WEIGHT"),
        (("content.png", "styles/[ab]*", "--slider", "s.html"), "several"),
        ((*pair, "--slider", "s.png"), ".html"),
        ((*pair, "--grid", "out.png"), "twice"),
        (("none.png", "style.png"), "none.png does not exist"),
        ((*pair, "--steps", "0"), "steps is 0"),
        ((*pair, "--color", "blue"), "color is 'blue'"),
    ):
        refused(run("stylize", *arguments, "-o", "out.png"), *words)
        assert files(tmp_path) == before, arguments
