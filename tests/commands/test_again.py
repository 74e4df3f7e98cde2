"""`eyesel show`, and `eyesel generate --from`: the same picture again."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

import eyesel
from command_line import files, refused
from eyesel.images import read_metadata, save_image
from tiny_models import write_painter, write_standard_painter

HOWS = {
    "plain": [],
    "old name": ["--solver", "DPM++ 2M Karras"],
    "ancestral": ["--solver", "euler_ancestral", "--eta", 0.7, "--rng", "philox"],
    "sde": ["--solver", "dpmpp_2m_sde", "--schedule", "exponential"],
    "no name there": ["--solver", "tcd", "--schedule", "trailing", "--eta", 0.1],
    "aligned": ["--solver", "heun", "--schedule", "AYS"],
    "guidance": ["--guidance", 6.123456789, "--guidance-rescale", 0.3, "--guidance-interval", "0.1,7.1234567"],
    "text": ["--negative", "red,\nblue", "--clip-skip", 2, "--emphasis", "no-norm", "--size", "40x64"],
    "empty negative": ["--negative", "", "--seed", 2**64 - 1, "--steps", 1],
}
PROMPT = 'a (large fox:1.3), [red|blue] "owl"\nSteps: 3 🦊'


@pytest.fixture(scope="session")
def xl(tmp_path_factory):
    return write_painter(tmp_path_factory.mktemp("xl"), "sdxl")


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    ("how", "suffix"), [*((how, ".png") for how in HOWS), ("guidance", ".jpg"), ("guidance", ".webp"), ("text", ".jpg")]
)
def test_the_same_picture_again(run, painter, tmp_path, how, suffix):
    first = ["generate", PROMPT, "-m", painter, "--steps", 3, "--seed", 7, *HOWS[how]]
    assert run(*first, "-o", f"a{suffix}")[0] == 0
    code, out, err = run("generate", "--from", f"a{suffix}", "-o", f"b{suffix}", "--json")
    assert (code, err) == (0, "")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()  # pixels, text and record
    assert json.loads(out)[0]["prompt"] == PROMPT


@pytest.mark.parametrize("options", [["--seed", 3], ["--solver", "unipc", "--schedule", "beta", "--steps", 4]])
def test_the_same_picture_of_the_bundled_model_and_of_sdxl(run, xl, tmp_path, options):
    for model in ("tiny", xl):
        assert run("generate", "a small owl", "-m", model, *options, "--enlarge", 2, "-o", "a.png")[0] == 0
        assert run("generate", "--from", "a.png", "--enlarge", 2, "-o", "b.png")[0] == 0
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_same_picture_in_python(painter, tmp_path):
    easel = eyesel.StableDiffusion.load(painter)
    how = {"solver": "Euler a", "guidance_interval": (0.1, 5.0), "size": (40, 64), "emphasis": "No norm", "steps": 2}
    first = easel.generate("a fox", negative="red", seed=8, **how)
    first.save(tmp_path / "a.webp")
    settings = eyesel.settings_from(tmp_path / "a.webp")
    again = eyesel.StableDiffusion.load(settings.pop("model")).generate(**settings)
    assert np.array_equal(np.asarray(first.image), np.asarray(again.image))
    assert (again.seed, again.settings) == (8, first.settings)
    assert eyesel.Picture.open(tmp_path / "a.webp").parameters == again.parameters


def test_what_is_typed_comes_first(run, painter, tmp_path):
    first = ["-m", painter, "--steps", 2, "--guidance", 3, "--negative", "red", "--solver", "ddim", "--size", "40x64"]
    assert run("generate", "a fox", *first, "--seed", 7, "-o", "a.png")[0] == 0
    assert run("generate", "a fox", *first, "--seed", 8, "-o", "b.png")[0] == 0
    assert run("generate", "--from", "a.png", "--seed", 8, "-o", "c.png")[0] == 0
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    options = ["--steps", 1, "--guidance", 2, "--negative", "blue", "--solver", "Euler", "--size", "64x64", "--eta", 0]
    options += ["--clip-skip", 1, "--emphasis", "ignore", "--rng", "philox", "--schedule", "Karras", "-m", "tiny"]
    assert run("generate", "an owl", *options, "--seed", 7, "-o", "d.png")[0] == 0
    assert run("generate", "an owl", *options, "--from", "a.png", "-o", "e.png")[0] == 0
    assert (tmp_path / "d.png").read_bytes() == (tmp_path / "e.png").read_bytes()
    assert run("generate", "--from", "a.png", "-n", 2, "-o", "f.png")[0] == 0
    assert np.array_equal(pixels(tmp_path / "f-2.png"), pixels(tmp_path / "b.png"))


A1111 = """\
a fox, (red:1.2)
Negative prompt: owl
Steps: 2, Sampler: Euler a, CFG scale: 6, Seed: 965400086, Size: 40x64, Model: {}, Clip skip: 2, \
ENSD: 31337, Version: v1.6.0"""


def a1111(path, text):
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", text)
    Image.new("RGB", (40, 64)).save(path, pnginfo=info)
    return path


def test_a_picture_of_automatic1111(run, painter, tmp_path):
    a1111(tmp_path / "a.png", A1111.format(painter))
    code, _, err = run("generate", "--from", "a.png", "-o", "b.png")
    assert code == 0 and err == "eyesel: note: a.png also says what means nothing here: ENSD: 31337\n"
    options = ["--negative", "owl", "--steps", 2, "--solver", "euler_ancestral", "--guidance", 6, "--seed", 965400086]
    options += ["--schedule", "normal", "--size", "40x64", "--clip-skip", 2, "--rng", "philox", "-m", painter]
    assert run("generate", "a fox, (red:1.2)", *options, "-o", "c.png")[0] == 0
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()


def test_what_cannot_be_repeated_is_told(run, painter, tmp_path):
    record = {"prompt": "a fox", "seed": 7, "steps": 1, "model": str(painter), "expand": [8, 0, 0, 0], "glow": 2}
    save_image(Image.new("RGB", (8, 8)), tmp_path / "a.png", {"eyesel": json.dumps(record)})
    code, _, err = run("generate", "--from", "a.png", "-o", "b.png")
    assert code == 0 and err.splitlines() == [
        "eyesel: note: a.png also says what means nothing here: glow: 2",
        "eyesel: note: a.png also says expand, which this command cannot repeat",
    ]


@pytest.mark.parametrize("model", ["deliberate_v2", "owner/name", "/gone/sd15.safetensors", "x" * 5000, "a\x1b[31m"])
def test_a_model_that_is_not_here(run, painter, tmp_path, model):
    """Nor does a picture get to start a download."""
    a1111(tmp_path / "a.png", A1111.format(json.dumps(model)))
    result = run("generate", "--from", "a.png", "-o", "b.png")
    assert len(result[2]) < 500 and "\x1b" not in result[2]
    code, out, err = result
    refused((code, out, err.split("\n", 1)[1]), "a.png was painted with the model", "--model")  # behind the note
    assert files(tmp_path) == ["a.png"]
    assert run("generate", "--from", "a.png", "-m", painter, "-o", "b.png")[0] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["prompt", "--from"]),
        (["--from", "gone.png"], ["gone.png", "does not exist"]),
        (["--from", "bare.png"], ["bare.png", "does not say how it was painted"]),
        (["--from", "many.png"], ["many.png", "Steps", "many"]),
        (["--from", "sampler.png"], ["DPM++ 3M SDE", "dpmpp_2m_sde"]),
        (["--from", "rng.png"], ["std_default", "philox"]),
        (["--from", "lora.png"], ["LoRA", "ink"]),
        (["a fox", "-o", "long.jpg", "--negative", "red " * 10_000], ["long.jpg", "EXIF", "long.png"]),
        (["a fox", "--model-hash"], ["folder", "--model-hash"]),
    ],
)
def test_refused(run, tmp_path, options, words):
    text = A1111.format("tiny").replace(", ENSD: 31337", "")
    save_image(Image.new("RGB", (8, 8)), tmp_path / "bare.png")
    a1111(tmp_path / "many.png", text.replace("Steps: 2", "Steps: many"))
    a1111(tmp_path / "sampler.png", text.replace("Euler a", "DPM++ 3M SDE"))
    a1111(tmp_path / "rng.png", text.replace("Clip skip: 2", "RNG: std_default"))
    a1111(tmp_path / "lora.png", text.replace("a fox", "a fox <lora:ink:0.8>"))
    before = files(tmp_path)
    refused(run("generate", *options), *words)
    assert files(tmp_path) == before


def test_the_hash_of_a_model(run, tmp_path_factory, tmp_path):
    standard = write_standard_painter(tmp_path_factory.mktemp("standard") / "folder", "sd1")
    assert run("models", "convert", standard, "m.safetensors", "--format", "single-file")[0] == 0
    options = ["-m", "m.safetensors", "--steps", 1, "--size", "64x64", "--seed", 1]
    code, out, _ = run("generate", "a fox", *options, "--model-hash", "--json")
    expected = hashlib.sha256((tmp_path / "m.safetensors").read_bytes()).hexdigest()[:10]
    assert code == 0 and json.loads(out)[0]["model_hash"] == expected
    assert f", Model hash: {expected}, Model: m, " in read_metadata(tmp_path / "picture.png")["parameters"]
    assert run("generate", "--from", "picture.png", "-o", "b.png")[0] == 0
    assert np.array_equal(pixels(tmp_path / "picture.png"), pixels(tmp_path / "b.png"))


# --- eyesel show


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_show(run, painter, tmp_path, suffix):
    options = ["-m", painter, "--steps", 2, "--seed", 7, "--guidance-interval", "0.1,7.1234567"]
    assert run("generate", PROMPT, *options, "-o", f"a{suffix}")[0] == 0
    code, out, err = run("show", f"a{suffix}")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"a{suffix}: eyesel ")
    start = lines.index("prompt:            " + PROMPT.split("\n")[0])
    assert lines[start + 1] == "                   " + PROMPT.split("\n")[1]
    for line in ("steps:             2", "size:              64x64", "guidance interval: 0.1, 7.1234567"):
        assert line in lines
    code, out, _ = run("show", f"a{suffix}", f"a{suffix}", "--json")
    first, second = json.loads(out)
    assert code == 0 and first == second and set(first) == {"file", "program", "settings", "unknown", "otherwise"}
    assert first["settings"]["prompt"] == PROMPT and first["settings"]["guidance_interval"] == [0.1, 7.1234567]


def test_show_of_others(run, tmp_path):
    a1111(tmp_path / "a.png", A1111.format("\x1b[31m") + ', Lora hashes: "a: b, c: d"')
    code, out, err = run("show", "a.png")
    assert (code, err) == (0, "") and "\x1b" not in out
    assert out.startswith("a.png: AUTOMATIC1111 v1.6.0\n")
    for line in (
        "solver:        euler_ancestral",
        "model:         \\x1b[31m",
        "(ENSD):        31337",
        "(Lora hashes): a: b, c: d",
    ):
        assert line in out.splitlines()
    texts = {"eyesel": json.dumps({"prompt": "a fox", "version": "eyesel 9", "seed": 7}), "parameters": A1111}
    save_image(Image.new("RGB", (8, 8)), tmp_path / "b.png", texts)
    assert "seed, as edited:      965400086" in run("show", "b.png")[1].splitlines()
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", '{"nodes": [1, 2]}')
    Image.new("RGB", (8, 8)).save(tmp_path / "c.png", pnginfo=info)
    assert run("show", "c.png") == (0, "c.png: ComfyUI\n(workflow): 2 nodes\n", "")


def test_show_shows_what_it_can(run, tmp_path):
    a1111(tmp_path / "a.png", A1111.format("x"))
    save_image(Image.new("RGB", (8, 8)), tmp_path / "bare.jpg")
    code, out, err = run("show", "bare.jpg", "a.png", "gone.png", "--json")
    assert code == 2 and [entry["file"] for entry in json.loads(out)] == ["a.png"]
    first, second = err.splitlines()
    assert first.startswith("eyesel: bare.jpg does not say how it was painted")
    assert second.startswith("eyesel: gone.png does not exist")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_show_refuses(run, tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    save_image(Image.fromarray(noise), path, {"eyesel": '{"prompt": "a fox"}', "parameters": "a fox"})
    whole = path.read_bytes()
    for length in (0, 1, 20, 50, 100, 150):
        path.write_bytes(whole[:length])
        refused(run("show", path), str(path))
        refused(run("show", "--json", path), str(path))
        refused(run("generate", "--from", path), str(path))
    for record in ("[" * 20_000, '{"seed": 1' + "0" * 5000 + "}", '{"steps": NaN}', '{"steps": "many"}'):
        save_image(Image.fromarray(noise), path, {"eyesel": record})
        refused(run("show", path), str(path))
        refused(run("generate", "--from", path), str(path))
    path.write_text("a fox\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1")
    refused(run("show", path), str(path), "not a picture")
    refused(run("show", tmp_path), "folder")
    refused(run("show", "https://example.com/fox.png"), "download")
    a1111(tmp_path / "long.png", "a " * 5_000_000)
    refused(run("show", tmp_path / "long.png"), "10,000,000")


@pytest.mark.parametrize(
    "options",
    [
        ["--variation-seed", 3, "--variation-strength", 0.25],
        ["--hires", 1.5, "--hires-steps", 4, "--hires-strength", 0.5, "--hires-upscaler", "lanczos"],
        ["--image", "photo.png", "--strength", 0.5],
        ["--image", "photo.png", "--strength", 0.5, "--size", "48x64", "--resize", "fill"],
    ],
    ids=str,
)
def test_two_passes_variations_and_image_to_image_again(run, painter, tmp_path, options):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    assert run("generate", PROMPT, "-m", painter, "--steps", 3, "--seed", 7, *options, "-o", "a.png")[0] == 0
    start = ["--image", "photo.png"] if "--image" in options else []
    assert run("generate", "--from", "a.png", *start, "-o", "b.png") == (0, run_line("b.png", tmp_path), "")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    if start:
        refused(run("generate", "--from", "a.png", "-o", "c.png"), "strength is 0.5, which needs an image")


def run_line(name, folder):
    with Image.open(folder / name) as image:
        return f"{name}: seed 7, {image.width}x{image.height}, pndm\n"


@pytest.mark.parametrize(
    "options",
    [
        ["--fill", "nothing", "--strength", 0.75],
        ["--only-masked", "--padding", 3, "--mask-blur", 1],
        ["--invert", "--expand", "0,8,16,0"],
    ],
    ids=str,
)
def test_inpainting_again(run, painter, tmp_path, options):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    mask = Image.new("L", (70, 45))
    mask.paste(255, (10, 10, 40, 30))
    mask.save(tmp_path / "mask.png")
    command = ["inpaint", "photo.png", "mask.png"]
    assert run(*command, PROMPT, "-m", painter, "--steps", 3, "--seed", 7, *options, "-o", "a.png")[0] == 0
    assert run(*command, "--from", "a.png", "-o", "b.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.fixture(scope="session")
def models(tmp_path_factory, painter):
    """A folder of models with two LoRAs and an embedding for the tiny painter."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("Lora", "embeddings", "Stable-diffusion"):
        (folder / name).mkdir()
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    for name in ("ink", "oil"):
        tensors = {f"{stem}.lora_down.weight": draw(2, 24), f"{stem}.lora_up.weight": draw(16, 2)}
        save_file(tensors, folder / "Lora" / f"{name}.safetensors")
    save_file({"emb_params": draw(2, 24)}, folder / "embeddings" / "sketchy.safetensors")
    save_file({"emb_params": draw(2, 768)}, folder / "embeddings" / "other.safetensors")
    return folder


def test_loras_and_learned_words(run, painter, models, tmp_path):
    options = ["-m", painter, "--steps", 2, "--seed", 7, "--models-dir", models]

    def paint(prompt, *more):
        code, _, err = run("generate", prompt, *options, *more, "-o", "x.png")
        assert (code, err) == (0, "")
        return pixels(tmp_path / "x.png")

    plain, ink = paint("a fox"), paint("a fox <lora:ink:0.8>")
    assert not np.array_equal(plain, ink) and read_metadata(tmp_path / "x.png")["parameters"].startswith(
        "a fox <lora:ink:0.8>\n"
    )
    assert np.array_equal(ink, paint("a fox ", "--lora", "ink:0.8"))
    assert np.array_equal(ink, paint("a fox ", "--lora", f"{models / 'Lora' / 'ink.safetensors'}:0.3:0.8"))
    assert np.array_equal(paint("a fox <lora:ink:0>"), paint("a fox "))
    assert not np.array_equal(paint("<lora:ink:0.8>"), paint(" <lora:oil:0.8>"))  # with nothing said besides
    nested = "a fox <lora:<lora:oil:0>ink:0.8>"  # what is left of it is no tag, but words
    easel = eyesel.StableDiffusion.load(painter, models_dir=models)
    assert np.array_equal(paint(nested), np.asarray(easel.generate(nested, steps=2, seed=7).image))
    both = paint("a fox <lora:ink:0.8>", "--lora", "oil")
    assert not np.array_equal(both, ink)
    assert run("generate", "--from", "x.png", "--models-dir", models, "-o", "y.png")[0] == 0
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()
    assert not np.array_equal(paint("a sketchy fox"), paint("a sketchi fox"))
    code, _, err = run("generate", "any other fox", *options, "-o", "x.png")
    assert code == 0 and "is for Stable Diffusion 1: 'other' is a word" in err


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        ("a fox <lora:inc:0.8>", [], ["inc", "did you mean ink"]),
        ("a fox <lora:../../ink:0.8>", [], ["ink"]),
        ("a fox <lora:ink:200>", [], ["100"]),
        ("a fox", ["--lora", "ink:much"], ["ink:much", "FILE:0.8"]),
        ("a fox", ["--lora", "ink:200"], ["200", "100"]),
        ("a fox", ["--negative", "<lora:ink:0.8>"], ["negative prompt", "ink"]),
        ("a fox <hypernet:x:1>", [], ["hypernetwork"]),
        ("a fox", ["--models-dir", "nowhere"], ["nowhere"]),
    ],
)
def test_loras_that_are_refused(run, painter, models, prompt, options, words):
    folder = [] if "--models-dir" in options else ["--models-dir", models]
    refused(run("generate", prompt, "-m", painter, *folder, *options), *words)


def test_loras_without_a_folder_of_models(run, painter):
    refused(run("generate", "a fox <lora:ink:0.8>", "-m", painter), "ink", "--models-dir")
    refused(run("generate", "a fox", "-m", painter, "--lora", "ink.safetensors"), "ink.safetensors")


def test_the_folder_of_models_is_known_to_all_commands(run, painter, models, tmp_path, monkeypatch):
    monkeypatch.setenv("EYESEL_MODELS", str(models))
    code, out, _ = run("models", "show", "ink", "--json")
    assert code == 0 and json.loads(out)[0]["path"] == str(models / "Lora" / "ink.safetensors")
    options = ["-m", painter, "--steps", 2, "--seed", 7]
    assert run("generate", "a fox", *options, "--lora", "ink:0.5", "-o", "a.png")[0] == 0
    assert "<lora:ink:0.5>" in read_metadata(tmp_path / "a.png")["parameters"]
    assert run("generate", "--from", "a.png", "-o", "b.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_learned_words_and_options_of_loading_are_recorded(run, painter, models, tmp_path):
    options = ["-m", painter, "--steps", 2, "--seed", 7, "--prediction-type", "v_prediction"]
    assert run("generate", "a sketchy fox", *options, "--models-dir", models, "-o", "a.png")[0] == 0
    record = json.loads(read_metadata(tmp_path / "a.png")["eyesel"])
    assert (record["embeddings"], record["prediction_type"]) == (["sketchy"], "v_prediction")
    code, _, err = run("generate", "--from", "a.png", "-o", "b.png")
    assert code == 0 and "learned words 'sketchy'" in err
    assert run("generate", "--from", "a.png", "--models-dir", models, "-o", "b.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
