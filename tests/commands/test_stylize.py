"""`eyesel stylize` as a person runs it."""

import base64
import io
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

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


def test_what_is_made_from_never_is_written_over(run, pictures, tmp_path):
    before = {name: (tmp_path / name).read_bytes() for name in ("content.png", "style.png")}
    for name in ("content.png", "./style.png", tmp_path / "style.png"):
        refused(run("stylize", "content.png", "style.png", *QUICK, "-o", name), "would be overwritten")
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_a_lora_by_its_file(run, painter, pictures, tmp_path):
    generator = torch.Generator().manual_seed(0)
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k"
    factors = {
        f"{stem}.lora_{end}.weight": torch.randn(*shape, generator=generator)
        for end, shape in (("down", (2, 16)), ("up", (16, 2)))
    }
    save_file(factors, "ink.safetensors")
    pair = ("content.png", "style.png", "-m", painter, *QUICK)
    assert run("stylize", *pair, "-o", "plain.png")[0] == 0
    code, out, err = run("stylize", *pair, "--lora", "ink.safetensors:0.5", "-o", "ink.png", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)[0]["loras"] == [["ink.safetensors", 0.5, 0.5]]
    assert not np.array_equal(pixels("plain.png"), pixels("ink.png"))


def test_a_kept_inversion_under_another_name_is_refused(run, pictures, tmp_path):
    command = ("stylize", "content.png", "style.png", *QUICK, "--cache", "cache", "-o", "out.png")
    assert run(*command)[0] == 0
    first, second = (tmp_path / "cache" / name for name in files(tmp_path / "cache"))
    made = (tmp_path / "out.png").read_bytes()
    first.write_bytes(second.read_bytes())
    refused(run(*command), first.name, "delete it")
    assert (tmp_path / "out.png").read_bytes() == made
    first.unlink()
    assert run(*command)[0] == 0 and (tmp_path / "out.png").read_bytes() == made


def test_two_processes_share_a_folder_of_inversions(pictures, tmp_path):
    program = [sys.executable, "-c", "from eyesel.cli import main; main()", "stylize", "content.png", "styles"]
    options = ["--steps", "2", "--cache", "cache", "-o"]
    both = [subprocess.Popen([*program, *options, f"{name}.png"], cwd=tmp_path) for name in ("one", "two")]
    assert [process.wait(120) for process in both] == [0, 0]
    assert len(files(tmp_path / "cache")) == 3  # nothing else is left behind
    for name in ("a", "b"):
        assert np.array_equal(pixels(tmp_path / f"one-{name}.png"), pixels(tmp_path / f"two-{name}.png"))


def test_ctrl_c_tells_what_is_finished(pictures, tmp_path):
    (tmp_path / "out-b.png").write_bytes(b"what was there before")
    program = [sys.executable, "-c", "from eyesel.cli import main; main()", "stylize", "content.png", "styles"]
    process = subprocess.Popen(
        [*program, "--steps", "300", "-o", "out.png"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(1200):
        if (tmp_path / "out-a.png").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == "out-a.png: 40x27, strength 0.5\n"
    assert err.splitlines()[-1] == "eyesel: interrupted; 1 of 2 pictures are finished."
    assert (tmp_path / "out-b.png").read_bytes() == b"what was there before"
    assert not [name for name in files(tmp_path) if name.endswith(".tmp")]


def test_deep_and_moving_pictures(run, pictures):
    Image.fromarray(np.random.default_rng(0).integers(0, 65536, (20, 24), dtype=np.uint16)).save("deep.png")
    frames = [Image.new("RGB", (24, 20), colour) for colour in ("red", "blue")]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
    Image.effect_noise((24, 20), 90).convert("P").save("clear.png", transparency=3)
    for one, other in (("deep.png", "moving.gif"), ("moving.gif", "clear.png"), ("clear.png", "deep.png")):
        assert run("stylize", one, other, *QUICK, "-o", "out.png")[0] == 0
        assert pixels("out.png").shape == (20, 24, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_pictures_of_any_mode(run, pictures, mode):
    draw("odd.tif", (33, 17), mode=mode)
    assert run("stylize", "odd.tif", "style.png", *QUICK, "-o", "out.png")[0] == 0
    assert pixels("out.png").shape == (17, 33, 3)


def test_bad_input_is_one_sentence(run, pictures, tmp_path):
    (tmp_path / "styles" / "c.png").write_bytes((tmp_path / "style.png").read_bytes()[:200])
    draw("dot.png", (1, 1))
    draw("mask.png", (32, 32), mode="L")
    Image.new("L", (40, 27), 255).save("right.png")
    draw("line.png", (1, 5000))
    (tmp_path / "empty").mkdir()
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
        ((*pair, "--grid", "./out.png"), "twice"),
        ((*pair, "--grid", "style.png"), "style.png would be overwritten"),
        ((*pair, "--content-mask", "right.png", "--strip", "right.png"), "right.png would be overwritten"),
        ((*pair, "--guidance", "5"), "no prompt"),
        ((*pair, "--strength", "nan"), "strength is nan"),
        ((*pair, "--strength", ""), "strength is ''"),
        ((*pair, "--layers", "2,99"), "no layer '99'"),
        ((*pair, "--cache", "style.png"), "style.png cannot be made"),
        ((*pair, "--lora", "none.safetensors"), "none.safetensors"),
        ((*pair, "--enlarge", "0"), "enlarged 0 times"),
        (("line.png", "style.png"), "1x5000"),
        (("content.png", "empty"), "no picture in empty"),
        (("none.png", "style.png"), "none.png does not exist"),
        ((*pair, "--steps", "0"), "steps is 0"),
        ((*pair, "--color", "blue"), "color is 'blue'"),
    ):
        refused(run("stylize", *arguments, "-o", "out.png"), *words)
        assert files(tmp_path) == before, arguments
