"""Configuration files with values of the wrong type or size: one sentence, at once, whatever they say."""

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_models import write_classifier, write_painter, write_tokenizer

from eyesel import EyeselError, ImageClassifier, StableDiffusion

BAD = {
    "classifier/config.json": {
        "hidden_size": [2**40, None, True],
        "image_size": [{}, 2**40, [32], "abc"],
        "patch_size": [{}, 0],
        "intermediate_size": [None, -1, 3.5],
        "layer_norm_eps": ["abc", None, float("inf"), float("nan")],
        "num_attention_heads": [0, -1, True],
        "num_channels": [[], -1],
        "num_hidden_layers": [100_000, 2**40, "abc", 0],
        "hidden_act": [[], None],
        "id2label": [3, "abc", ["a"], {"x": "a"}],
        "model_type": [[1]],
        "problem_type": [[1], "other"],
    },
    "painter/model_index.json": {"_class_name": [[], 3], "text_encoder": [1, "abc"]},
    "painter/unet/config.json": {
        "attention_head_dim": [None, 0, "abc", [0, 0], True],
        "block_out_channels": [None, 1, [], [16] * 1000],
        "cross_attention_dim": [[], {}, -1, "abc"],
        "down_block_types": [None, 1, [[], []]],
        "in_channels": [None, "abc", -1],
        "layers_per_block": [None, [], {}, 100_000, 999],
        "norm_eps": ["abc", [1]],
        "out_channels": [None, {}],
        "sample_size": [-1, 0, "abc", 3.5, 100_000, [8], ["a", 8]],
        "transformer_layers_per_block": [[], [1], 100_000, 2**40],
        "use_linear_projection": ["abc"],
    },
    "painter/vae/config.json": {
        "block_out_channels": [None, "abc", []],
        "down_block_types": [None],
        "latent_channels": [2**40, True, None],
        "layers_per_block": [100_000, None],
        "norm_num_groups": [0, -1, None],
        "scaling_factor": [None, "abc", 0],
    },
    "painter/text_encoder/config.json": {
        "eos_token_id": ["abc", [1]],
        "hidden_size": [2**40],
        "num_attention_heads": [0, -1],
        "num_hidden_layers": [100_000, None],
        "vocab_size": [None, -1],
    },
    "painter/scheduler/scheduler_config.json": {
        "_class_name": [[], {}],
        "beta_start": ["abc", None],
        "clip_sample_range": ["abc"],
        "num_train_timesteps": [2**40, "1000", 3.5],
        "steps_offset": ["abc", -1],
        "trained_betas": [1, ["a"], []],
    },
    "painter/tokenizer/vocab.json": {"<|endoftext|>": [100_000]},
}
CASES = [(file, key, value) for file, keys in BAD.items() for key, values in keys.items() for value in values]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("bad")
    write_classifier(root / "classifier")
    write_painter(root / "painter", "sd1")
    (root / "painter/tokenizer/tokenizer.json").unlink(missing_ok=True)
    write_tokenizer(root / "painter/tokenizer")
    return root


@pytest.fixture
def mended(root):
    """Puts back the files that a test spoils."""
    saved = {}

    def spoil(file, content: bytes):
        saved[root / file] = (root / file).read_bytes()
        (root / file).write_bytes(content)

    yield spoil
    for path, content in saved.items():
        path.write_bytes(content)


def refused(root, file):
    with warnings.catch_warnings(), pytest.raises(EyeselError) as caught:
        warnings.simplefilter("ignore")
        if file.startswith("classifier"):
            ImageClassifier.load(root / "classifier")
        else:
            StableDiffusion.load(root / "painter").steps("a fox", steps=2, solver=SOLVERS.get(file))
    message = str(caught.value)
    assert "\n" not in message and message.rstrip().endswith("."), message
    return message


SOLVERS = {"painter/scheduler/scheduler_config.json": "ddim"}  # the solver that reads every setting


@pytest.mark.parametrize(("file", "key", "value"), CASES, ids=lambda each: str(each)[-30:])
def test_a_bad_value_is_one_sentence(root, mended, file, key, value):
    config = json.loads((root / file).read_bytes())
    mended(file, json.dumps({**config, key: value}).encode())
    refused(root, file)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("painter/tokenizer/tokenizer_config.json", b"[" * 200_000),
        ("painter/tokenizer/merges.txt", b"#version: 0.2\n"),
        ("painter/tokenizer/merges.txt", b""),
        ("painter/unet/config.json", b'{"a":' * 200_000),
        ("classifier/config.json", b"[]"),
    ],
)
def test_a_bad_file_is_one_sentence(root, mended, file, content):
    mended(file, content)
    refused(root, file)


def test_whole_numbers_are_no_weights(root, mended):
    path = root / "classifier" / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    name = next(name for name in tensors if name.endswith("layernorm.bias"))
    tensors[name] = tensors[name].to(torch.int32)
    mended("classifier/model.safetensors", path.read_bytes())
    save_file(tensors, path, metadata={"format": "pt"})
    assert "norm.bias" in refused(root, "classifier")


@pytest.mark.parametrize("strange", [torch.eye(2).to_sparse(), torch.eye(2) * 1j, torch.empty(2, device="meta")])
def test_pickles_hold_plain_tensors(root, tmp_path, strange):
    shutil.copytree(root / "classifier", tmp_path / "classifier")
    (tmp_path / "classifier" / "model.safetensors").unlink()
    torch.save({"strange.weight": strange}, tmp_path / "classifier" / "pytorch_model.bin")
    assert "strange.weight" in refused(tmp_path, "classifier")


def test_a_height_and_a_width_are_a_sample_size(root, mended):
    config = json.loads((root / "painter/unet/config.json").read_bytes())
    mended("painter/unet/config.json", json.dumps({**config, "sample_size": [8, 16]}).encode())
    assert StableDiffusion.load(root / "painter").unet.config.sample_size == 16


def test_labels_beyond_the_head_are_named(root, mended):
    config = json.loads((root / "classifier/config.json").read_bytes())
    config["id2label"] = {**config["id2label"], "40": "unicorn"}
    mended("classifier/config.json", json.dumps(config).encode())
    with pytest.warns(UserWarning, match=r"40 \(unicorn\)"):
        ImageClassifier.load(root / "classifier")
