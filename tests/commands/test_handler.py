"""`eyesel models handler`: folders that are called as the container of Hugging Face Inference Endpoints calls them."""

import base64
import importlib.util
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eyesel
from command_line import files, refused
from eyesel import ImageClassifier, StableDiffusion
from tiny_models import write_classifier, write_standard_painter

ASSETS = Path(eyesel.__file__).parent / "assets" / "tiny"
FOX = ASSETS / "examples" / "fox.png"


def container(folder, monkeypatch):
    """The handler of a folder, imported as huggingface_inference_toolkit.utils does."""
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    spec = importlib.util.spec_from_file_location("handler.EndpointHandler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "handler.EndpointHandler", module)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


def deserialize(body, content_type):
    if content_type == "application/json":
        return json.loads(body)
    assert content_type in ("image/png", "image/jpeg")
    return {"inputs": Image.open(io.BytesIO(body)).convert("RGB")}


def encode(value):
    assert isinstance(value, Image.Image)
    out = io.BytesIO()
    value.save(out, format="PNG")
    return base64.b64encode(out.getvalue()).decode()


def post(handler, body, content_type="application/json", query=None):
    """(status, body) of its webservice_starlette.predict."""
    try:
        data = deserialize(json.dumps(body) if content_type == "application/json" else body, content_type)
        if query and "parameters" not in data:
            data["parameters"] = {name: int(value) if value.isnumeric() else value for name, value in query.items()}
        return 200, json.loads(json.dumps(handler(data), default=encode))
    except Exception as error:
        return 400, str(error)


def picture_of(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def base64_of(path):
    return base64.b64encode(path.read_bytes()).decode()


@pytest.fixture
def served(run, monkeypatch, tmp_path):
    """A copy of a folder, with its handler loaded."""

    def serve(folder, *options):
        copy = tmp_path / "served"
        shutil.copytree(folder, copy)
        code, out, err = run("models", "handler", copy, *options)
        assert code == 0, err
        assert out.split() == [str(copy / "handler.py"), str(copy / "requirements.txt")]
        return container(copy, monkeypatch)

    return serve


def test_the_bundled_classifier(served, tmp_path):
    handler = served(ASSETS / "classifier")
    assert (tmp_path / "served" / "requirements.txt").read_text() == f"eyesel=={eyesel.__version__}\n"
    assert len((tmp_path / "served" / "handler.py").read_text().splitlines()) <= 10
    expected = [{"label": p.label, "score": p.score} for p in ImageClassifier.load("tiny").classify(FOX, 3)]
    assert expected[0]["label"] == "fox"
    encoded = base64_of(FOX)
    lines = "\n".join(encoded[i : i + 76] for i in range(0, len(encoded), 76))
    for inputs in (encoded, f"data:image/png;base64,{encoded}", lines):
        assert post(handler, {"inputs": inputs, "parameters": {"top_k": 3}}) == (200, expected)
    assert post(handler, FOX.read_bytes(), "image/png", {"top_k": "3"}) == (200, expected)
    assert handler({"inputs": FOX.read_bytes(), "parameters": {"top_k": 3, "function_to_apply": None}}) == expected
    status, rows = post(handler, {"inputs": [encoded, encoded], "parameters": {"function_to_apply": "sigmoid"}})
    assert status == 200 and rows[0] == rows[1] and len(rows[0]) == 5
    assert sum(p["score"] for p in rows[0]) != pytest.approx(sum(p["score"] for p in expected))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"inputs": "fox.png"}, ("fox.png", "base64")),
        ({"inputs": str(FOX)}, ("base64",)),
        ({"inputs": "https://example.org/fox.png"}, ("base64",)),
        ({"inputs": base64.b64encode(b"no picture at all").decode()}, ("not a picture",)),
        ({"inputs": 5}, ("int", "base64")),
        ({"inputs": []}, ("no pictures",)),
        ({"instances": ["x"]}, ("no inputs",)),
        ({"inputs": None}, ("no inputs",)),
        ({"inputs": base64_of(FOX), "parameters": [3]}, ("parameters", "list")),
        ({"inputs": base64_of(FOX), "parameters": {"top_k": 0}}, ("top_k", "0")),
        ({"inputs": base64_of(FOX), "parameters": {"top_k": "3"}}, ("top_k", "'3'")),
        ({"inputs": base64_of(FOX), "parameters": {"function_to_apply": "exp"}}, ("function_to_apply", "exp")),
        ({"inputs": base64_of(FOX), "parameters": {"candidate_labels": "fox"}}, ("candidate_labels", "top_k")),
    ],
)
def test_bad_input_is_one_sentence(served, classifier, data, words):
    status, message = post(served(classifier), data)
    assert status == 400 and "\n" not in message and all(word in message for word in words), message


def test_a_transformers_folder(served, classifier):
    handler = served(classifier)
    status, rows = post(handler, {"inputs": base64_of(FOX)})
    found = ImageClassifier.load(classifier).classify(FOX)
    assert status == 200 and rows == [{"label": p.label, "score": p.score} for p in found]


def test_a_network_without_a_head(served, classifier, tmp_path):
    from safetensors.torch import load_file, save_file

    bare = tmp_path / "bare"
    shutil.copytree(classifier, bare)
    tensors = load_file(bare / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if not n.startswith("classifier")}, bare / "model.safetensors")
    handler = served(bare)
    status, row = post(handler, {"inputs": base64_of(FOX)})
    assert status == 200 and np.allclose(row, ImageClassifier.load(classifier).embed(FOX), atol=1e-6)
    _, rows = post(handler, {"inputs": [base64_of(FOX)], "parameters": {"normalize": True}})
    assert np.linalg.norm(rows[0]) == pytest.approx(1, abs=1e-5)
    assert "top_k" in post(handler, {"inputs": base64_of(FOX), "parameters": {"top_k": 3}})[1]


def test_the_bundled_painter(served):
    handler = served(ASSETS / "painter")
    easel = StableDiffusion.load("tiny")
    words = "a large fox on a blue background"
    asked = {"num_inference_steps": 3, "guidance_scale": 2.5, "negative_prompt": "owl", "seed": 7}
    settings = {"steps": 3, "guidance": 2.5, "negative": "owl", "seed": 7}
    status, painted = post(handler, {"inputs": words, "parameters": {**asked, "scheduler": "Euler"}})
    expected = easel.generate(words, **settings, solver="euler").image
    assert status == 200 and picture_of(painted).tobytes() == expected.tobytes()
    size = {"width": 40, "height": 24}
    for sides in (size, {"target_size": size}):
        painted = handler({"inputs": words, "parameters": {**asked, **sides}})
        assert painted.tobytes() == easel.generate(words, **settings, size=(40, 24)).image.tobytes()
    assert handler({"inputs": words, "parameters": {"width": 40, "num_inference_steps": 1}}).size == (40, 32)
    several = handler({"inputs": words, "parameters": {**asked, "num_images_per_prompt": 2}})
    assert [p.tobytes() for p in several] == [p.image.tobytes() for p in easel.generate(words, n=2, **settings)]


def test_from_one_picture_to_another(served):
    handler = served(ASSETS / "painter")
    words, easel = "a large owl on a blue background", StableDiffusion.load("tiny")
    asked = {"prompt": words, "num_inference_steps": 4, "strength": 0.5, "seed": 1}
    target = {"target_size": {"height": 24, "width": 40}}
    settings = {"steps": 4, "strength": 0.5, "seed": 1}
    expected = easel.generate(words, image=FOX, size=(40, 24), **settings).image
    for inputs in (base64_of(FOX), f"data:image/png;base64,{base64_of(FOX)}"):
        status, painted = post(handler, {"inputs": inputs, "parameters": {**asked, **target}})
        assert status == 200 and picture_of(painted).tobytes() == expected.tobytes()
    painted = handler({"inputs": Image.open(FOX).convert("RGB"), "parameters": {**asked, **target}})
    assert painted.tobytes() == expected.tobytes()
    mask = Image.new("L", Image.open(FOX).size)
    mask.paste(255, (0, 0, mask.width, mask.height // 2))
    painted = handler({"inputs": FOX.read_bytes(), "parameters": {**asked, "mask_image": encode(mask)}})
    assert painted.tobytes() == easel.inpaint(FOX, mask, words, **settings).image.tobytes()


@pytest.mark.parametrize(
    ("inputs", "parameters", "words"),
    [
        ("", {}, ("prompt", "empty")),
        (base64_of(FOX), {}, ("prompt", "empty")),  # a picture is no prompt
        ("data:image/png;base64,eHl6", {"prompt": "an owl"}, ("not a picture",)),
        ("an owl", {"prompt": "a fox"}, ("an owl", "base64")),
        (["a fox"], {}, ("list",)),
        ("a fox", {"prompt": 3}, ("prompt", "int")),
        ("a fox", {"num_inference_steps": "many"}, ("steps", "many")),
        ("a fox", {"guidance_scale": float("nan")}, ("guidance",)),
        ("a fox", {"scheduler": "fastest"}, ("fastest",)),
        ("a fox", {"seed": -1}, ("seed", "-1")),
        ("a fox", {"seed": "x"}, ("seed", "x")),
        ("a fox", {"width": 31}, ("width", "31")),
        ("a fox", {"height": "tall"}, ("size", "tall")),
        ("a fox", {"target_size": {"depth": 3}}, ("target_size", "depth")),
        ("a fox", {"target_size": 64}, ("target_size", "64")),
        ("a fox", {"num_images_per_prompt": 0}, ("0",)),
        ("a fox", {"strength": 0.5}, ("strength", "image")),
        ("a fox", {"loras": ["/etc/passwd"]}, ("loras",)),
        ("a fox", {"image": "/etc/passwd"}, ("image",)),
        ("a fox", {"tap": 1}, ("tap",)),
    ],
)
def test_bad_input_of_a_painter_is_one_sentence(bundled_painter, inputs, parameters, words):
    status, message = post(bundled_painter, {"inputs": inputs, "parameters": parameters})
    assert status == 400 and "\n" not in message and all(word in message for word in words), message


@pytest.fixture(scope="module")
def bundled_painter():
    from eyesel.endpoint import EndpointHandler

    return EndpointHandler(ASSETS / "painter")


def test_a_diffusers_folder(served, painter):
    handler = served(painter)
    status, painted = post(handler, {"inputs": "a fox", "parameters": {"num_inference_steps": 1, "seed": 3}})
    expected = StableDiffusion.load(painter).generate("a fox", steps=1, seed=3).image
    assert status == 200 and picture_of(painted).tobytes() == expected.tobytes()


def test_a_checkpoint_in_a_single_file(run, served, tmp_path):
    folder = write_standard_painter(tmp_path / "folder", "sd1")
    (tmp_path / "checkpoint").mkdir()
    file = tmp_path / "checkpoint" / "model.safetensors"
    assert run("models", "convert", folder, file, "--format", "single-file")[0] == 0
    handler = served(tmp_path / "checkpoint")
    size = {"width": 64, "height": 64}
    status, painted = post(handler, {"inputs": "a fox", "parameters": {"num_inference_steps": 1, "seed": 1, **size}})
    expected = StableDiffusion.load(file).generate("a fox", steps=1, seed=1, size=(64, 64)).image
    assert status == 200 and picture_of(painted).tobytes() == expected.tobytes()


def test_a_vit_in_a_single_file(run, tmp_path, monkeypatch):
    whole = write_classifier(tmp_path / "whole", hidden_size=64, num_attention_heads=1)
    (tmp_path / "vit").mkdir()
    shutil.copy(whole / "model.safetensors", tmp_path / "vit" / "weights.safetensors")
    assert run("models", "handler", tmp_path / "vit")[0] == 0
    with pytest.warns(UserWarning, match="LABEL_0"):
        handler = container(tmp_path / "vit", monkeypatch)
    status, [best] = post(handler, {"inputs": base64_of(FOX), "parameters": {"top_k": 1}})
    assert status == 200 and best["label"].startswith("LABEL_")


def test_what_is_there_is_kept(run, classifier, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(classifier, folder)
    before = files(folder)
    (folder / "requirements.txt").write_text("mine\n")
    refused(run("models", "handler", folder), "requirements.txt", "exists", "--force")
    assert (folder / "requirements.txt").read_text() == "mine\n" and "handler.py" not in files(folder)
    code, out, _ = run("models", "handler", folder, "--force", "--package", "git+https://example.org/eyesel", "--json")
    assert code == 0 and json.loads(out)["output"] == [str(folder / n) for n in ("handler.py", "requirements.txt")]
    assert (folder / "requirements.txt").read_text() == "git+https://example.org/eyesel\n"
    assert files(folder) == sorted([*before, "handler.py", "requirements.txt"])
    refused(run("models", "handler", folder, "--force", "--bundle", "--package", "x"), "bundle", "x")
    refused(run("models", "handler", folder, "--force", "--package", "a\nb"), "one line")


def test_folders_that_cannot_be_served(run, classifier, tmp_path):
    refused(run("models", "handler", tmp_path / "nowhere"), "nowhere", "no folder")
    refused(run("models", "handler", tmp_path), "no weights")
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(classifier / "model.safetensors", tmp_path / name)
    refused(run("models", "handler", tmp_path), "a.safetensors, b.safetensors", "several")
    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "config.json").write_text('{"model_type": "bert"}')
    shutil.copy(classifier / "model.safetensors", bert)
    refused(run("models", "handler", bert), "bert")
    assert files(bert) == ["config.json", "model.safetensors"]


def test_a_folder_that_brings_eyesel_along(run, classifier, tmp_path):
    """Another process, in which no other eyesel is to be found, classifies with the copy in the folder."""
    folder = tmp_path / "folder"
    shutil.copytree(classifier, folder)
    code, out, err = run("models", "handler", folder, "--bundle")
    assert code == 0 and out.split()[-1] == str(folder / "eyesel"), err
    needed = (folder / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("torch") for line in needed) and not any("eyesel" in line for line in needed)
    assert not (folder / "eyesel" / "assets" / "tiny").exists()
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); import handler, eyesel; "
        f"assert eyesel.__file__.startswith({str(folder)!r}); "
        f"print(handler.EndpointHandler({str(folder)!r})(dict(inputs=open({str(FOX)!r}, 'rb').read()))[0]['label'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == ImageClassifier.load(classifier).classify(FOX)[0].label, done.stderr
    refused(run("models", "handler", folder, "--bundle"), "exists", "--force")
    assert run("models", "handler", folder, "--bundle", "--force")[0] == 0
    mine = tmp_path / "mine"
    shutil.copytree(classifier, mine)
    (mine / "eyesel").mkdir()
    (mine / "eyesel" / "notes.txt").write_text("mine")
    refused(run("models", "handler", mine, "--bundle", "--force"), "no copy of eyesel")
    assert files(mine / "eyesel") == ["notes.txt"]
