"""Image prompts and aligned pictures on the command line."""

import json

import numpy as np
import pytest
from PIL import Image

from command_line import files, refused
from eyesel import StableDiffusion, settings_from
from ip_adapter_files import save, tables, write_image_encoder
from lora_files import reference

FAST = ("--steps", "2", "--seed", "7", "--precision", "float32")


@pytest.fixture(scope="module")
def adapter(painter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    write_image_encoder(folder / "image_encoder")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / "style.png")
    return save(tables(reference(painter).unet, "plus"), folder / "adapter.safetensors")


def pixels(path):
    return np.asarray(Image.open(path))


def test_an_image_prompt(run, painter, adapter, tmp_path):
    style = adapter.parent / "style.png"
    shown = ("--adapter", f"ip-adapter:{adapter}:0.6", "--adapter-image", style)
    code, out, err = run("generate", "a fox", "-m", painter, *FAST, *shown, "-o", "fox.png", "--json")
    assert code == 0, err
    [record] = json.loads(out)
    assert record["adapter"] == f"ip-adapter:{adapter}:0.6" and record["adapter_images"] == [str(style)]
    prompted = StableDiffusion.load(painter, precision="float32").with_image_prompt(adapter, style, scale=0.6)
    expected = prompted.generate("a fox", steps=2, seed=7)
    assert np.array_equal(pixels("fox.png"), np.asarray(expected.image))
    code, _, err = run("generate", "--from", "fox.png", "-m", painter, "--precision", "float32", "-o", "repeated.png")
    assert code == 0 and np.array_equal(pixels("repeated.png"), pixels("fox.png")), err
    assert "note" not in err
    with pytest.warns(UserWarning, match="with_image_prompt"):
        assert "adapter" not in settings_from("fox.png")
    shown = ("--adapter", f"ip-adapter:{adapter}", "--adapter-image", style, "--adapter-scale", "0.6")
    encoder = ("--image-encoder", adapter.parent / "image_encoder")
    assert run("generate", "a fox", "-m", painter, *FAST, *shown, *encoder, "-o", "again.png")[0] == 0
    assert np.array_equal(pixels("again.png"), pixels("fox.png"))
    Image.new("L", (64, 64), 255).save("mask.png")
    run("generate", "a fox", "-m", painter, *FAST, "-o", "plain.png")
    code, _, err = run("inpaint", "plain.png", "mask.png", "a fox", "-m", painter, *FAST, *shown, "-o", "over.png")
    assert code == 0, err
    assert not np.array_equal(pixels("fox.png"), pixels("plain.png"))


def test_an_image_prompt_for_a_style_transfer(run, painter, adapter, tmp_path):
    style = adapter.parent / "style.png"
    for name, seed in (("content.png", 1), ("look.png", 2)):
        noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(name)
    pair = ("content.png", "look.png", "-m", painter, "--steps", "2", "--precision", "float32", "--guidance", "3")
    shown = ("--adapter", f"ip-adapter:{adapter}", "--adapter-image", style, "--adapter-scale", "0.6")
    code, out, err = run("stylize", *pair, *shown, "-o", "out.png", "--json")
    assert code == 0, err
    [record] = json.loads(out)
    assert (record["adapter"], record["adapter_scale"]) == (f"ip-adapter:{adapter}", "0.6")
    assert record["adapter_images"] == [str(style)]
    prompted = StableDiffusion.load(painter, precision="float32").with_image_prompt(adapter, style, scale=0.6)
    expected = prompted.stylize("content.png", "look.png", steps=2, guidance=3.0)
    assert np.array_equal(pixels("out.png"), np.asarray(expected.image))
    refused(run("stylize", *pair, "--adapter-image", style, "-o", "x.png"), "--adapter")
    refused(run("stylize", *pair, "--adapter", f"ip-adapter:{adapter}", "-o", "x.png"), "--adapter-image")
    refused(run("stylize", *pair, *shown, "--adapter-image", "out.png", "-o", "out.png"), "would be overwritten")
    refused(
        run("generate", "a fox", "-m", painter, *shown, "--adapter-image", "out.png", "-o", "out.png"), "overwritten"
    )
    assert np.array_equal(pixels("out.png"), np.asarray(expected.image))
    assert files(tmp_path) == ["content.png", "look.png", "out.png"]


def test_what_an_adapter_file_is(run, adapter):
    code, out, _ = run("models", "show", adapter)
    assert code == 0 and "an IP-Adapter" in out and "plus" in out and "24 numbers" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--adapter", "{}", "--adapter-image", "{}.png"], ["ip-adapter:FILE"]),
        (["--adapter", "ip-adapter:{}"], ["--adapter-image"]),
        (["--adapter-image", "{}"], ["--adapter"]),
        (["--adapter-scale", "style"], ["--adapter"]),
        (["--adapter", "ip-adapter:{}:x", "--adapter-image", "{}"], ["'x'"]),
        (["--adapter", "ip-adapter:{}:1", "--adapter-image", "{}", "--adapter-scale", "2"], ["leave one out"]),
        (["--adapter", "ip-adapter:{}", "--adapter-image", "{}", "--adapter-scale", "1e"], ["'1e'"]),
        (["--adapter", "ip-adapter:{}", "--adapter-image", "{}", "--adapter-scale", "stile"], ["stile"]),
        (["--adapter", "ip-adapter:{}", "--adapter-image", "{}"], ["not a picture"]),
        (["-m", "{}"], ["an IP-Adapter"]),
        (["--lora", "{}"], ["an IP-Adapter"]),
        (["--adapter", "ip-adapter:no", "--adapter-image", "{}"], ["no file no"]),
        (["--adapter", "ip-adapter:{}", "--adapter-image", "{}", "-m", "tiny"], ["24 numbers", "128"]),
    ],
)
def test_adapters_that_cannot_be_used(run, painter, adapter, tmp_path, options, words):
    options = [option.replace("{}", str(adapter)) for option in options]
    refused(run("generate", "a fox", "-m", painter, *FAST, *options), *words)
    assert files(tmp_path) == []


def test_aligned_pictures(run, painter, tmp_path):
    also = ("--also", "a small owl", "--align-style", "-o", "style.png")
    code, out, err = run("generate", "a fox", "-m", painter, *FAST, *also, "--json")
    assert code == 0, err
    assert files(tmp_path) == ["style-1.png", "style-2.png"]
    assert [(each["prompt"], each["seed"]) for each in json.loads(out)] == [("a fox", 7), ("a small owl", 8)]
    painted = StableDiffusion.load(painter, precision="float32").generate(
        ["a fox", "a small owl"], steps=2, seed=7, align_style=True
    )
    for i, picture in enumerate(painted):
        assert np.array_equal(pixels(f"style-{i + 1}.png"), np.asarray(picture.image))
    aligned = ("--align-style", "--align-norms", "-n", "3")
    code, _, err = run("generate", "a fox", "-m", painter, *FAST, *aligned, "-o", "three.png")
    assert code == 0 and len(files(tmp_path)) == 5, err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--align-style"], ["several"]),
        (["--also", "an owl"], ["--align-style"]),
        (["--align-norms", "-n", "2"], ["align_style"]),
    ],
)
def test_pictures_that_cannot_be_aligned(run, painter, tmp_path, options, words):
    refused(run("generate", "a fox", "-m", painter, *FAST, *options), *words)
    assert files(tmp_path) == []
