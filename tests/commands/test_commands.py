"""The program as a person meets it: what each command prints, writes and refuses."""

import importlib.util
import json
import os
import re
import signal

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from command_line import files, refused
from eyesel import __version__
from eyesel.images import read_metadata
from tiny_models import write_classifier, write_standard_painter


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


def test_help_of_every_command(run):
    code, out, _ = run("--help")
    assert code == 0
    commands = re.findall(r"^  (\w+) ", out[out.index("Commands") :], re.MULTILINE)
    groups = {"index", "models", "train"}
    assert {"classify", "embed", "attend", "generate", "inpaint", "show", "compare", "serve", *groups} <= set(commands)
    for command in [
        *([c] for c in commands if c not in groups),
        *(["index", c] for c in ("build", "search", "duplicates", "clusters", "outliers")),
        *(["models", c] for c in ("list", "show", "convert", "handler")),
        *(["train", c] for c in ("classifier", "diffusion")),
    ]:
        code, out, _ = run(*command, "--help")
        assert code == 0
        assert "Example: eyesel " + " ".join(command) in out


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


def test_embed(run, picture, classifier, tmp_path):
    other = tmp_path / "other.png"
    Image.new("RGB", (8, 8)).save(other)
    code, out, _ = run("embed", picture, other, "-m", classifier, "-o", "e.npz", "--pool", "mean")
    assert code == 0 and "2 x 48" in out
    with np.load(tmp_path / "e.npz") as stored:
        assert stored["files"].tolist() == [str(picture), str(other)]
        assert stored["embeddings"].shape == (2, 48) and stored["embeddings"].dtype == np.float32


def test_embed_several_layers_of_another_size(run, picture, classifier, tmp_path):
    options = ["--layer", 1, "--layer", -1, "--pool", "grid", "--image-size", "48x24", "--normalize", "--final-norm"]
    code, out, _ = run("embed", picture, "-m", classifier, "-o", "e.safetensors", "--json", *options)
    assert code == 0 and json.loads(out)["shape"] == [1, 2, 3, 6, 48]
    with safe_open(tmp_path / "e.safetensors", "np") as stored:
        assert json.loads(stored.metadata()["files"]) == [str(picture)]
        assert np.allclose(np.linalg.norm(stored.get_tensor("embeddings"), axis=-1), 1)


def test_embed_to_parquet(run, picture, classifier, tmp_path):
    if importlib.util.find_spec("pyarrow") is None:
        refused(run("embed", picture, "-m", classifier, "-o", "e.parquet"), "pip install pyarrow")
        assert files(tmp_path) == ["picture.png"]
        return
    import pyarrow.parquet

    for options, shape in [([], (1, 48)), (["--layer", 0, "--layer", 2], (1, 2, 48))]:
        assert run("embed", picture, "-m", classifier, "-o", "e.parquet", "--force", *options)[0] == 0
        table = pyarrow.parquet.read_table(tmp_path / "e.parquet")
        assert table["file"].to_pylist() == [str(picture)]
        assert np.array(table["embedding"].to_pylist()).shape == shape
    assert run("embed", picture, "-m", classifier, "-o", "e.npz", "--layer", 0, "--layer", 2)[0] == 0
    with np.load(tmp_path / "e.npz") as stored:
        assert np.array_equal(stored["embeddings"], np.array(table["embedding"].to_pylist(), np.float32))


def test_classify_raw_numbers_and_another_size(run, picture, classifier, tmp_path):
    code, out, _ = run("classify", picture, "-m", classifier, "--function-to-apply", "sigmoid", "--json")
    scores = [p["score"] for p in json.loads(out)[0]["predictions"]]
    assert code == 0 and len(scores) == 5 and sum(scores) > 1
    code, out, _ = run("classify", picture, "-m", classifier, "--function-to-apply", "none", "--image-size", 48)
    assert code == 0 and "%" not in out and re.search(r"^ +-?\d+\.\d{4}  \w+$", out.splitlines()[1])
    regression = write_classifier(tmp_path / "age", problem_type="regression", id2label={0: "age"}, label2id={"age": 0})
    code, out, _ = run("classify", picture, "-m", regression)
    assert code == 0 and re.search(r"^ +-?\d+\.\d{4}  age$", out.splitlines()[1])


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


@pytest.fixture
def mask(tmp_path):
    image = Image.new("L", (60, 40))
    image.paste(255, (10, 5, 30, 25))
    image.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--only-masked", "--padding", 4, "--size", "64x64"],
        ["--fill", "noise", "--strength", 0.9],
        ["--fill", "fill", "--invert"],
        ["--expand", "8,0,0,16"],
    ],
    ids=str,
)
def test_inpaint_keeps_the_rest_bit_for_bit(run, painter, picture, mask, tmp_path, options):
    command = ["inpaint", picture, mask, "a fox", "-m", painter, "--steps", 2, "--seed", 7, "-o", "out.png"]
    assert run(*command, "--mask-blur", 2, *options)[0] == 0
    before, after = (np.asarray(Image.open(tmp_path / name)) for name in ("picture.png", "out.png"))
    if "--expand" in options:
        assert after.shape == (56, 68, 3)
        after = after[:40, 8:]
    kept = np.asarray(Image.open(mask)) == (255 if "--invert" in options else 0)
    far = np.ones_like(kept)  # from what is repainted: 5 pixels, the reach of the blur
    for y, x in np.argwhere(~kept):
        far[max(y - 5, 0) : y + 6, max(x - 5, 0) : x + 6] = False
    if "--expand" in options:
        far[-5:] = far[:, :5] = False
    assert far.sum() >= 100 and np.array_equal(before[far], after[far])
    assert not np.array_equal(before[~kept], after[~kept])


def test_inpaint_where_the_picture_is_transparent_or_new(run, painter, picture, tmp_path):
    options = ["a fox", "-m", painter, "--steps", 1, "--seed", 7, "-o", "out.png"]
    clear = Image.open(picture).convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 30, 40))
    clear.save(tmp_path / "clear.png")
    assert run("inpaint", "clear.png", "alpha", *options)[0] == 0
    assert run("inpaint", picture, "none", *options, "--expand", "0,0,20,0")[0] == 0
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (80, 40)


def test_inpaint_with_a_checkpoint_made_for_it(run, picture, mask, tmp_path):
    folder = write_standard_painter(tmp_path / "model", "sd1", in_channels=9)
    options = ["-m", folder, "--steps", 1, "--seed", 7]
    assert run("inpaint", picture, mask, "a fox", *options, "-o", "out.png")[0] == 0
    refused(run("generate", "a fox", *options, "-o", "x.png"), "inpainting checkpoint", "mask")
    refused(run("generate", "a fox", "--image", picture, *options, "-o", "x.png"), "inpainting checkpoint", "mask")


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


@pytest.fixture(scope="session")
def standard(tmp_path_factory):
    return write_standard_painter(tmp_path_factory.mktemp("standard") / "folder", "sd1")


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


# --- what is refused: one sentence on standard error, exit code 2, nothing written


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
    ("arguments", "words"),
    [
        (["picture.png", "other.png"], ["59x40", "60x40"]),
        (["picture.png", "black.png"], ["all black"]),
        (["picture.png", "missing.png"], ["missing.png"]),
        (["missing.png", "mask.png"], ["missing.png"]),
        (["picture.png", "clear.png"], ["transparent", "black and white"]),
        (["picture.png", "alpha"], ["no transparent part"]),
        (["picture.png", "none"], ["mask"]),
        (["picture.png", "none", "--expand", "0,0,0,0"], ["0,0,0,0"]),
        (["picture.png", "none", "--expand", "0,0,8"], ["0,0,8", "0,0,256,0"]),
        (["picture.png", "none", "--expand", "0,0,-8,0"], ["expand", "-8"]),
        (["picture.png", "none", "--expand", "9000,0,0,0"], ["9060", "8192"]),
        (["picture.png", "mask.png", "--fill", "water"], ["water", "nothing"]),
        (["picture.png", "mask.png", "--mask-blur", "-1"], ["mask_blur", "-1"]),
        (["picture.png", "mask.png", "--padding", "5"], ["padding", "only_masked"]),
        (["picture.png", "mask.png", "--strength", "0"], ["strength", "0"]),
        (["picture.png", "mask.png", "--strength", "1.5"], ["strength", "1.5"]),
        (["picture.png", "mask.png", "--strength", "0.01"], ["0.01", "0.5"]),
    ],
)
def test_inpaint_refuses(run, painter, picture, mask, tmp_path, arguments, words):
    Image.new("L", (60, 40)).save(tmp_path / "black.png")
    Image.new("L", (59, 40), 255).save(tmp_path / "other.png")
    Image.new("LA", (60, 40), (255, 9)).save(tmp_path / "clear.png")
    before = files(tmp_path)
    image, shape, *options = arguments
    options += ["-m", painter, "--steps", 2, "-o", "out.png"]
    refused(run("inpaint", image, shape, "a fox", *options), *words)
    assert files(tmp_path) == before


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


def png(width, height, data=b""):
    """A PNG of that size by its header, with hardly any pixels behind it."""
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data or bytes(1000)))
        + chunk(b"IEND", b"")
    )


def whole_png():
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"not a picture", "picture"),
        (whole_png()[:2000], "x.png"),
        (png(50_000, 50_000), "50"),
    ],
    ids=["zero bytes", "text", "truncated", "bomb"],
)
@pytest.mark.parametrize("command", ["classify", "embed", "attend"])
def test_unreadable_pictures(run, classifier, tmp_path, command, content, word):
    (tmp_path / "x.png").write_bytes(content)
    output = [] if command == "classify" else ["-o", "out.npz" if command == "embed" else "out.png"]
    refused(run(command, tmp_path / "x.png", "-m", classifier, *output), word)
    assert files(tmp_path) == ["x.png"]


@pytest.mark.parametrize("command", ["classify", "attend"])
def test_pipes_and_devices_are_not_waited_for(run, classifier, tmp_path, command):
    os.mkfifo(tmp_path / "pipe.png")
    output = [] if command == "classify" else ["-o", "out.png"]
    for path in (tmp_path / "pipe.png", "/dev/zero"):
        refused(run(command, path, "-m", classifier, *output), "pipe or a device")
    refused(run(command, "a" * 300 + ".png", "-m", classifier, *output), "cannot be opened")


def test_a_model_of_nans_is_not_believed(run, picture, tmp_path, capsys):
    folder = write_classifier(tmp_path / "nan")
    state = load_file(folder / "model.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in state.items()}, folder / "model.safetensors")
    capsys.readouterr()  # what transformers shows while it saves
    refused(run("classify", picture, "-m", folder, "--json"), "no numbers")


def test_missing_pictures_and_empty_folders(run, classifier, tmp_path):
    refused(run("classify", "none.png", "-m", classifier), "none.png")
    refused(run("classify", tmp_path, "-m", classifier), str(tmp_path))
    refused(run("classify", "https://example.com/fox.png", "-m", classifier), "download")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "1", "I;16", "F"])
def test_every_mode_is_classified(run, classifier, tmp_path, mode):
    image = Image.new(mode, (20, 30))
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.tiff" if mode == "F" else "x.png")
    image.save(path)
    assert run("classify", path, "-m", classifier)[0] == 0


def test_the_wrong_kind_of_model(run, picture, classifier, painter, tmp_path):
    refused(run("classify", picture, "-m", painter), "Stable Diffusion")
    refused(run("generate", "a fox", "-m", classifier), "Vision Transformer")
    (tmp_path / "empty").mkdir()
    refused(run("classify", picture, "-m", tmp_path / "empty"), "empty")
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "vit"}')
    refused(run("classify", picture, "-m", tmp_path / "empty"), "weights")
    refused(run("models", "show", "tinny"), "tiny")


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


def test_embed_refuses(run, picture, classifier, tmp_path):
    refused(run("embed", picture, "-m", classifier, "-o", "e.csv"), ".npz")
    refused(run("embed", picture, "-m", classifier, "-o", "no/e.npz"), "no")
    refused(run("embed", picture, "-m", classifier, "-o", "e.npz", "--layer", 9), "9")
    refused(run("embed", picture, "-m", classifier, "-o", "e.npz", "--batch-size", 0), "0")
    for size in ("big", "33", "0", "16x", "8x8x8", "99999999"):
        refused(run("embed", picture, "-m", classifier, "-o", "e.npz", "--image-size", size), size.strip("x"))
    (tmp_path / "there.npz").write_bytes(b"precious")
    refused(run("embed", picture, "-m", classifier, "-o", "there.npz"), "there.npz", "--force")
    assert (tmp_path / "there.npz").read_bytes() == b"precious"
    (tmp_path / "there.npz").unlink()
    refused(run("classify", picture, "-m", classifier, "--top-k", 0), "0")
    assert files(tmp_path) == ["picture.png"]
