"""ImageClassifier against transformers' pipeline and hidden_states, picture in, scores and vectors out."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from eyesel import ImageClassifier
from eyesel.errors import CheckpointError, OutputError, SettingError
from tiny_models import randomise, write_classifier

PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)) for seed in (0, 1, 2)
]
HEADS = {
    "single": {"problem_type": "single_label_classification"},
    "multi": {"problem_type": "multi_label_classification"},
    "regression": {"problem_type": "regression", "id2label": {0: "age"}, "label2id": {"age": 0}},
    "unsaid": {},
    "unsaid, one class": {"id2label": {0: "fox"}, "label2id": {"fox": 0}},
}


@pytest.mark.parametrize("function", [None, "softmax", "sigmoid", "none"])
@pytest.mark.parametrize("head", HEADS)
def test_scores_are_those_of_the_pipeline(tmp_path, head, function):
    write_classifier(tmp_path, **HEADS[head])
    pipeline = transformers.pipeline(
        "image-classification",
        transformers.ViTForImageClassification.from_pretrained(tmp_path),
        image_processor=transformers.ViTImageProcessorPil.from_pretrained(tmp_path),
    )
    eye = ImageClassifier.load(tmp_path)
    for picture, ours in zip(PICTURES, eye.classify(PICTURES, 3, function_to_apply=function), strict=True):
        theirs = pipeline(picture, top_k=3, function_to_apply=function)
        assert [p.label for p in ours] == [p["label"] for p in theirs]
        assert np.allclose([p.score for p in ours], [p["score"] for p in theirs], atol=1e-4)


def test_unknown_function(tmp_path):
    with pytest.raises(SettingError, match="function_to_apply is 'relu'"):
        ImageClassifier.load("tiny").classify(PICTURES, function_to_apply="relu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    write_classifier(root / "vit")
    dino = transformers.Dinov2WithRegistersConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=8, num_labels=0
    )
    randomise(transformers.Dinov2WithRegistersModel(dino)).save_pretrained(root / "dinov2")
    transformers.BitImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 40, "width": 40}).save_pretrained(
        root / "dinov2"
    )
    return root


MODELS = {
    "vit": (transformers.ViTModel, transformers.ViTImageProcessorPil, 1),
    "dinov2": (transformers.Dinov2WithRegistersModel, transformers.models.bit.BitImageProcessorPil, 5),
}


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_are_hidden_states(folders, name):
    kind, processor, prefix = MODELS[name]
    model = kind.from_pretrained(folders / name, **({"add_pooling_layer": False} if name == "vit" else {})).eval()
    pixels = processor.from_pretrained(folders / name)(PICTURES, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model(pixels, output_hidden_states=True)
    hidden = [state.numpy() for state in output.hidden_states]
    last = output.last_hidden_state.numpy()
    rows = pixels.shape[-2] // 8
    eye = ImageClassifier.load(folders / name)

    def equal(ours, theirs):
        assert ours.dtype == np.float32
        return ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 1e-4

    for layer in range(3):
        assert equal(eye.embed(PICTURES, "none", layer), hidden[layer])
        assert equal(eye.embed(PICTURES, "cls", layer - 4), hidden[layer][:, 0])
    with torch.no_grad():
        normed = model.layernorm(torch.from_numpy(hidden[2])).numpy()
        assert equal(eye.embed(PICTURES, "none", 2, final_norm=True), normed)
    assert equal(eye.embed(PICTURES, "none"), last)
    assert equal(eye.embed(PICTURES), last[:, 0])
    assert equal(eye.embed(PICTURES, "mean"), last[:, prefix:].mean(1))
    assert equal(eye.embed(PICTURES, "grid"), last[:, prefix:].reshape(3, rows, rows, 48))
    assert equal(eye.embed(PICTURES[0], "grid"), last[0, prefix:].reshape(rows, rows, 48))
    before = eye.embed(PICTURES, "none", 3)  # the last layer as it is, before the norm
    assert equal(eye.embed(PICTURES, "none", -1, final_norm=False), before)
    with torch.no_grad():
        assert equal(model.layernorm(torch.from_numpy(before)).numpy(), last)

    several = eye.embed(PICTURES, "cls", [0, 2, -1], batch_size=2)
    assert equal(several, np.stack([hidden[0][:, 0], hidden[2][:, 0], last[:, 0]], axis=1))
    unit = eye.embed(PICTURES, "mean", normalize=True)
    mean = last[:, prefix:].mean(1)
    assert equal(unit, mean / np.linalg.norm(mean, axis=-1, keepdims=True))


def test_embeddings_at_another_size(folders):
    model = transformers.ViTModel.from_pretrained(folders / "vit", add_pooling_layer=False).eval()
    processor = transformers.ViTImageProcessorPil.from_pretrained(folders / "vit", size={"height": 24, "width": 56})
    with torch.no_grad():
        pixels = processor(PICTURES, return_tensors="pt")["pixel_values"]
        expected = model(pixels, interpolate_pos_encoding=True).last_hidden_state.numpy()
    eye = ImageClassifier.load(folders / "vit", image_size=(24, 56))
    assert np.abs(eye.embed(PICTURES, "none") - expected).max() <= 1e-4
    assert eye.embed(PICTURES[0], "grid").shape == (3, 7, 48)


def test_a_size_is_saved(folders, tmp_path):
    eye = ImageClassifier.load(folders / "vit", image_size=48, precision="file")
    eye.save(tmp_path / "m")
    theirs = transformers.ViTForImageClassification.from_pretrained(tmp_path / "m")
    assert theirs.config.image_size == 48
    pixels = transformers.ViTImageProcessorPil.from_pretrained(tmp_path / "m")(PICTURES, return_tensors="pt")
    with torch.no_grad():
        assert (theirs(**pixels).logits - eye.logits(PICTURES)).abs().max() <= 1e-4


def test_embeddings_refuse(folders):
    eye = ImageClassifier.load(folders / "vit")
    for arguments, complaint in [
        ({"pool": "max"}, "pool is 'max'"),
        ({"layer": 4}, "layer is 4"),
        ({"layer": [0, -5]}, "layer is -5"),
        ({"layer": []}, "no layers"),
    ]:
        with pytest.raises(SettingError, match=complaint):
            eye.embed(PICTURES, **arguments)
    with pytest.raises(SettingError, match="no classification head"):
        ImageClassifier.load(folders / "dinov2").classify(PICTURES)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_saving_converts_and_replaces(folders, tmp_path, dtype):
    eye = ImageClassifier.load(folders / "vit", precision="file")
    eye.save(tmp_path / "m", dtype=dtype)
    again = ImageClassifier.load(tmp_path / "m", precision="file")
    assert again.dtype == getattr(torch, dtype) and again.labels == eye.labels
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == dtype
    with pytest.raises(OutputError, match="exists already"):
        eye.save(tmp_path / "m")
    eye.save(tmp_path / "m", force=True)
    assert ImageClassifier.load(tmp_path / "m", precision="file").dtype == torch.float32
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "config.json").write_text("{}")
    with pytest.raises(OutputError, match="not one of a model"):
        eye.save(tmp_path / "papers", force=True)
    with pytest.raises(OutputError, match="is to be a folder"):
        eye.save(tmp_path / "m.safetensors")
    with pytest.raises(SettingError, match="int3"):
        eye.save(tmp_path / "n", dtype="int3")
    with pytest.raises(SettingError, match="onnx"):
        eye.save(tmp_path / "n", "onnx")


@pytest.mark.parametrize(
    ("kind", "words", "size"),
    [
        ("vit", r"resized to 32x32 and scaled to \[-1, 1\]", (32, 32)),
        ("dinov2", "shorter edge of 36 pixels, cut to 32x32 and normalised .* ImageNet, as for DINO", (32, 32)),
    ],
)
def test_a_missing_preprocessor_is_said(folders, kind, words, size):
    described = folders / kind / "preprocessor_config.json"
    kept = described.read_bytes()
    described.unlink()
    try:
        with pytest.warns(UserWarning, match=words):
            assert ImageClassifier.load(folders / kind).transform.output_size == size
    finally:
        described.write_bytes(kept)


LABELS = {"0": "cat", "1": "fox", "2": "owl"}


@pytest.mark.parametrize(
    ("config", "expected", "said"),
    [
        ({"id2label": LABELS}, ["cat", "fox", "owl"], None),
        ({"id2label": LABELS, "label2id": {"cat": 0, "fox": "1", "owl": 2}}, ["cat", "fox", "owl"], None),
        ({"id2label": {**LABELS, "2": "fox"}, "label2id": {"cat": 0, "fox": 2}}, ["cat", "fox", "fox"], None),
        ({"label_names": ["cat", "fox", "owl"]}, ["cat", "fox", "owl"], None),
        ({"pretrained_cfg": {"label_names": ["cat", "fox", "owl"]}}, ["cat", "fox", "owl"], None),
        ({"id2label": LABELS, "label2id": {"cat": 0, "owl": 1, "fox": 2}}, ["cat", "fox", "owl"], "about 'owl'"),
        ({"id2label": LABELS, "label2id": {"cat": 0, "owl": None}}, ["cat", "fox", "owl"], "about 'owl'"),
        ({"id2label": {"0": "cat", "2": "owl"}}, ["cat", "LABEL_1", "owl"], "no label for 1 of its 3 classes"),
        ({}, ["LABEL_0", "LABEL_1", "LABEL_2"], "no labels"),
        ({"id2label": {**LABELS, "7": "bee"}}, ["cat", "fox", "owl"], r"beyond them: 7 \(bee\)"),
    ],
)
def test_labels(recwarn, config, expected, said):
    from eyesel.weights.labels import labels_of

    if said is None:
        assert labels_of(config, 3) == expected
        assert not recwarn.list
        return
    with pytest.warns(UserWarning, match=said):
        assert labels_of(config, 3) == expected


def test_labels_that_are_none():
    from eyesel.weights.labels import labels_of

    for named in (3, {"x": "a"}, "abc"):
        with pytest.raises(CheckpointError, match="id2label"):
            labels_of({"id2label": named}, 3)
    assert labels_of({}, 0) == []
