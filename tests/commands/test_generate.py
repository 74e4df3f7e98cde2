"""`eyesel generate` as a person runs it."""

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from command_line import files, refused
from eyesel import __version__
from eyesel.images import read_metadata


def test_generate_same_seed_same_picture(run, painter, tmp_path):
    options = ["--model", painter, "--steps", 2, "--negative", "red", "--solver", "euler_ancestral"]
    assert run("generate", "a fox, böse", *options, "--seed", 7, "-o", "a.png")[0] == 0
    code, out, _ = run("generate", "a fox, böse", *options, "--seed", 6, "-n", 2, "-o", "b.png", "--json")
    assert code == 0
    assert [entry["seed"] for entry in json.loads(out)] == [6, 7]
    assert files(tmp_path) == ["a.png", "b-1.png", "b-2.png"]
    a, b1, b2 = (np.asarray(Image.open(tmp_path / name)) for name in files(tmp_path))
    assert a.shape == (64, 64, 3)
    assert np.array_equal(a, b2) and not np.array_equal(a, b1)

    metadata = read_metadata(tmp_path / "a.png")
    assert metadata["parameters"].startswith("a fox, böse\nNegative prompt: red\nSteps: 2, Sampler: Euler a,")
    assert "Seed: 7, Size: 64x64" in metadata["parameters"]
    assert json.loads(metadata["eyesel"])["seed"] == 7


def test_generate_writes_down_how(run, painter, tmp_path):
    options = ["--solver", "DPM++ 2M SDE Karras", "--eta", 0.5, "--rng", "philox"]
    options += ["--guidance-rescale", 0.7, "--guidance-interval", "0.28,5.42"]
    code, out, _ = run("generate", "a fox", "-m", painter, "--steps", 2, "--seed", 7, "--json", *options)
    assert code == 0
    entry = json.loads(out)[0]
    assert (entry["solver"], entry["schedule"], entry["eta"], entry["rng"]) == ("dpmpp_2m_sde", "karras", 0.5, "philox")
    assert (entry["guidance_rescale"], entry["guidance_interval"]) == (0.7, [0.28, 5.42])
    parameters = read_metadata(tmp_path / "picture.png")["parameters"]
    assert "Sampler: DPM++ 2M SDE, Schedule type: Karras, CFG scale: 7.5, Seed: 7, Size: 64x64, Model: " in parameters
    end = f"RNG: NV, Eta: 0.5, Guidance rescale: 0.7, Guidance interval: 0.28-5.42, Version: eyesel {__version__}"
    assert parameters.endswith(end)


def test_generate_enlarged_and_other_sizes(run, painter, tmp_path):
    assert run("generate", "a fox", "-m", painter, "--steps", 1, "--size", "40x64", "--enlarge", 4)[0] == 0
    with Image.open(tmp_path / "picture.png") as image:
        assert image.size == (160, 256)


def test_generate_reads_prompts_as_a1111_does(run, painter, tmp_path):
    options = ["-m", painter, "--steps", 2, "--seed", 1]
    prompt = "a (large fox:1.3) AND a [red|blue] owl :0.5, " + "fox " * 100
    assert run("generate", prompt.replace(", ", " BREAK "), *options, "-o", "a.png")[0] == 0
    assert run("generate", "a (fox)", *options, "-o", "b.png", "--emphasis", "no-norm", "--clip-skip", 2) == (
        0,
        "b.png: seed 1, 64x64, pndm\n",
        "",
    )
    assert read_metadata(tmp_path / "b.png")["parameters"].count(", Clip skip: 2, RNG: CPU, Emphasis: No norm, ") == 1
    assert "Clip skip" not in read_metadata(tmp_path / "a.png")["parameters"]
    assert run("generate", r"a \(fox\)", *options, "-o", "c.png")[0] == 0
    assert run("generate", "a (fox)", *options, "-o", "d.png", "--emphasis", "none")[0] == 0
    b, c, d = ((tmp_path / name).read_bytes() for name in ("b.png", "c.png", "d.png"))
    assert np.array_equal(*(np.asarray(Image.open(tmp_path / name)) for name in ("c.png", "d.png"))) and b != c != d


def test_generate_from_a_picture(run, painter, picture, tmp_path):
    options = ["-m", painter, "--steps", 4, "--seed", 7, "-o", "out.png"]
    code, out, _ = run("generate", "a fox", "--image", picture, "--strength", 0.5, *options, "--json")
    [entry] = json.loads(out)
    assert code == 0 and (entry["strength"], entry["width"], entry["height"]) == (0.5, 60, 40)
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (60, 40)
    assert run("generate", "a fox", "--image", picture, "--size", "64x64", "--resize", "crop", *options)[0] == 0
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (64, 64)
    before = picture.read_bytes()
    refused(run("generate", "a fox", "--image", picture, "-m", painter), "picture.png", "overwritten", "-o")
    assert picture.read_bytes() == before


def test_generate_in_two_passes_and_variations(run, painter, tmp_path):
    options = ["-m", painter, "--steps", 2, "--size", "32x64", "--seed", 7]
    assert run("generate", "a fox", *options, "--hires", 1.5, "--hires-upscaler", "lanczos", "-o", "a.png")[0] == 0
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (48, 96)
    varied = ["--variation-seed", 3, "--variation-strength", 0.2]
    code, out, _ = run("generate", "a fox", *options, *varied, "-n", 2, "-o", "v.png", "--json")
    assert code == 0
    assert [(entry["seed"], entry["variation_seed"]) for entry in json.loads(out)] == [(7, 3), (7, 4)]
    first, second = (np.asarray(Image.open(tmp_path / f"v-{i}.png")) for i in (1, 2))
    assert not np.array_equal(first, second)
    assert run("generate", "a fox", *options, "--variation-seed", 4, "--variation-strength", 0.2, "-o", "w.png")[0] == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "w.png")), second)


def test_an_interrupted_series_keeps_what_is_finished(run, painter, tmp_path, monkeypatch):
    """Ctrl-C when the third of five pictures has been painted and is to be saved."""
    from eyesel.picture import Picture

    save = Picture.save

    def interrupted(self, path, *options):
        if path.name == "picture-3.png":
            os.kill(os.getpid(), signal.SIGINT)
        save(self, path, *options)

    monkeypatch.setattr(Picture, "save", interrupted)
    code, out, err = run("generate", "a fox", "-m", painter, "--steps", 2, "-n", 5)
    assert code == 130 and "2 of 5 pictures are finished" in err
    assert len(out.splitlines()) == 2 and files(tmp_path) == ["picture-1.png", "picture-2.png"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "0"], ["steps", "0"]),
        (["--steps", "5000"], ["steps", "5000"]),
        (["--size", "33x64"], ["33", "multiple of 8"]),
        (["--size", "64x0"], ["0", "multiple of 8"]),
        (["--size", "99999x64"], ["99999"]),
        (["--size", "big"], ["big", "512x768"]),
        (["--guidance", "nan"], ["nan"]),
        (["--guidance", "inf"], ["inf"]),
        (["-n", "0"], ["-n", "0"]),
        (["-n", "3", "--seed", str(2**64 - 2)], ["seed", str(2**64 - 2)]),
        (["--enlarge", "64", "--size", "1024x1024"], ["64", "1024x1024"]),
        (["--enlarge", "0"], ["0"]),
        (["--device", "meta"], ["meta", "cpu"]),
        (["--solver", "eule"], ["eule", "euler"]),
        (["--schedule", "carras"], ["carras", "karras"]),
        (["--solver", "DPM++ 2M Karras", "--schedule", "beta"], ["Karras", "beta"]),
        (["--solver", "euler", "--eta", "0.5"], ["eta", "0.5", "euler_ancestral"]),
        (["--guidance-rescale", "2"], ["guidance_rescale", "2"]),
        (["--guidance-interval", "5"], ["5", "0.28,5.42"]),
        (["--guidance-interval", "5,1"], ["5 to 1", "0.28"]),
        (["--rng", "gpu"], ["gpu", "philox"]),
        (["--seed", "-1"], ["-1"]),
        (["--precision", "int3"], ["int3", "float32"]),
        (["--device", "abacus"], ["abacus", "cpu"]),
        (["--clip-skip", "9"], ["clip_skip", "9"]),
        (["--emphasis", "strong"], ["strong", "no norm"]),
        (["-o", "missing/x.png"], ["missing", "x.png"]),
        (["-o", "x.gif"], [".gif", ".png"]),
        (["-o", "."], ["folder"]),
        (["--model", "tinny"], ["tinny", "tiny"]),
        (["--model", "nowhere/"], ["nowhere"]),
        (["--model", "owner/name", "--offline"], ["owner/name"]),
    ],
)
def test_generate_refuses(run, painter, tmp_path, options, words):
    model = [] if "--model" in options else ["--model", painter]
    refused(run("generate", "a fox", *model, *options), *words)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--strength", "0.5"], ["strength", "image"]),
        (["--image", "missing.png"], ["missing.png"]),
        (["--image", "picture.png", "--hires", "2"], ["hires", "words alone"]),
        (["--image", "picture.png", "--resize", "squash"], ["squash", "stretch"]),
        (["--hires", "0.5"], ["hires", "0.5"]),
        (["--hires", "2", "--hires-strength", "0"], ["strength", "0"]),
        (["--hires", "2", "--hires-upscaler", "magic"], ["magic", "latent"]),
        (["--hires", "8", "--size", "2048x2048"], ["16384"]),
        (["--hires-steps", "5"], ["hires_steps", "hires"]),
        (["--variation-seed", "5"], ["variation_seed", "variation_strength"]),
        (["--variation-strength", "2"], ["variation_strength", "2"]),
    ],
)
def test_generate_refuses_what_does_not_fit_together(run, painter, picture, tmp_path, options, words):
    if "--size" not in options:
        options = [*options, "--size", "64x64"]
    refused(run("generate", "a fox", "-m", painter, *options, "-o", "out.png"), *words)
    assert files(tmp_path) == ["picture.png"]


@pytest.mark.parametrize(
    "prompt", ["", "   ", "x" * 200_000, "a AND", "(fox:1000)", "(" * 9_000 + "fox", "a fox <lora:x:0.8>", "<lora:x:?>"]
)
def test_generate_refuses_prompts(run, painter, tmp_path, prompt):
    refused(run("generate", prompt, "-m", painter), "prompt")
    assert files(tmp_path) == []
