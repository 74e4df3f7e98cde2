"""Textual inversions in every form against diffusers' load_textual_inversion; those in pictures by their format."""

import base64
import json
import zlib

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file
from torch import nn

from eyesel import CheckpointError, StableDiffusion
from eyesel.weights.textual_inversion import open_embedding
from tiny_models import write_painter

TOLERANCE = 1e-5
PROMPT = "a small <cat-toy> on a {} background, (large <cat-toy>)"


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def painter(request, tmp_path_factory):
    folder = write_painter(tmp_path_factory.mktemp(request.param), request.param)
    return folder, StableDiffusion.load(folder, precision="float32"), len(request.param) == 4


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    folder = write_painter(tmp_path_factory.mktemp("only"), "sd1")
    return folder, StableDiffusion.load(folder, precision="float32")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def forms(home, name, vectors):
    """The forms of a word for one text encoder."""
    save_file({f"<{name}>": vectors}, home / "learned_embeds.safetensors")
    torch.save({f"<{name}>": vectors}, home / "learned_embeds.bin")
    save_file({"emb_params": vectors}, home / f"<{name}>.safetensors")
    torch.save(
        {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": vectors},
            "name": "another",
            "step": 5000,
            "sd_checkpoint": None,
            "sd_checkpoint_name": None,
        },
        home / f"<{name}>.pt",
    )
    first = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": nn.ParameterDict({"*": vectors})}
    torch.save(first, home / f"<{name}>.bin")
    return sorted(path for path in home.iterdir() if path.is_file())


@pytest.mark.parametrize("shape", [(24,), (1, 24), (3, 24)])
def test_the_context_is_that_of_diffusers(painter, tmp_path, shape):
    folder, ours, xl = painter
    theirs = diffusers.DiffusionPipeline.from_pretrained(folder)
    vectors = [drawn(*shape), drawn(*shape, seed=1)][: 1 + xl]
    if xl:
        rows = [each.reshape(-1, 24) for each in vectors]
        save_file({"clip_l": rows[0], "clip_g": rows[1]}, tmp_path / "<cat-toy>.safetensors")
        files = [tmp_path / "<cat-toy>.safetensors"]
        for i, each in enumerate(rows):
            suffix = "_2" if i else ""
            parts = {"tokenizer": f"tokenizer{suffix}", "text_encoder": f"text_encoder{suffix}"}
            theirs.load_textual_inversion(
                each, "<cat-toy>", **{key: getattr(theirs, part) for key, part in parts.items()}
            )
    else:
        files = [*forms(tmp_path, "cat-toy", vectors[0]), tmp_path]
        theirs.load_textual_inversion(tmp_path)
    prompt = PROMPT.format("red").replace("(", "").replace(")", "")
    with torch.no_grad():
        expected = theirs.encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    for file in files:
        encoder = ours.with_embeddings([file]).prompt_encoder
        if (form := open_embedding(file)).words[0] not in ("<cat-toy>", "learned_embeds"):
            pytest.fail(str(form.words))
        encoded = encoder.encode([prompt])[prompt]
        assert (encoded.context[0] - expected[0][0]).abs().max().item() <= TOLERANCE
        if xl:
            assert (encoded.pooled - expected[2][0]).abs().max().item() <= TOLERANCE
    plain = ours.prompt_encoder.encode([prompt])[prompt].context
    assert (plain[0] - expected[0][0]).abs().max().item() > 0.05 and not ours.prompt_encoder.words.ids


def test_the_picture_is_that_of_diffusers(sd1, tmp_path):
    folder, ours = sd1
    save_file({"<cat-toy>": drawn(2, 24)}, tmp_path / "learned_embeds.safetensors")
    theirs = diffusers.DiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = diffusers.EulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    theirs.load_textual_inversion(tmp_path)
    generator = torch.Generator().manual_seed(7)
    settings = {"num_inference_steps": 3, "guidance_scale": 5.0, "width": 64, "height": 64}
    expected = theirs(
        "a <cat-toy>", generator=generator, output_type="latent", negative_prompt="red", **settings
    ).images
    painter_ = ours.with_embeddings([tmp_path])
    *_, last = painter_.steps(
        "a <cat-toy>", seed=7, steps=3, guidance=5.0, solver="euler", size=(64, 64), negative="red"
    )
    assert (last.latents - expected).abs().max().item() <= 1e-4 * max(1.0, expected.abs().max().item())


# --- pictures


def record(vectors, name="fox-style"):
    return {"string_to_token": {"*": 265}, "string_to_param": {"*": {"TORCHTENSOR": vectors.tolist()}}, "name": name}


def hidden_in_pixels(picture, data):
    """As AUTOMATIC1111 does it: four bits of every byte in a block on each side, behind a black column."""
    packed = np.frombuffer(zlib.compress(json.dumps(data).encode(), 9), np.uint8)
    high = picture.shape[0]
    rows = -(-len(packed) // (high * 3)) * high * 3
    blocks = []
    for half in (packed & 15, packed >> 4):
        seed, mask = 0, []
        for _ in range(rows):
            seed = (1664525 * seed + 1013904223) % 2**32
            mask.append(seed % 255 & 15)
        bits = np.resize(half, rows) ^ np.array(mask, np.uint8)
        blocks.append((bits | 160).reshape(high, -1, 3).astype(np.uint8))  # dots are drawn into the upper bits
    black = np.zeros((high, 1, 3), np.uint8)
    return np.concatenate([blocks[0], black, picture, black, blocks[1]], axis=1)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("border", [0, 5])
def test_an_embedding_in_the_pixels(sd1, tmp_path, suffix, border):
    vectors = drawn(4, 24)
    picture = np.random.default_rng(0).integers(1, 255, (64, 48, 3), dtype=np.uint8) | 1
    pixels = np.pad(hidden_in_pixels(picture, record(vectors)), ((border, border), (border, border), (0, 0)))
    file = tmp_path / f"x{suffix}"
    Image.fromarray(pixels).save(file, **({"lossless": True} if suffix == ".webp" else {}))
    embedding = open_embedding(file)
    assert embedding.words == ("x", "fox-style") and torch.equal(embedding.vectors[0], vectors)
    learned = sd1[1].with_embeddings([file]).prompt_encoder.words.ids
    assert {word: len(ids) for word, ids in learned.items()} == {"x": 4, "fox-style": 4}


def test_an_embedding_in_the_text_of_a_picture(tmp_path):
    vectors, info = drawn(2, 24), PngImagePlugin.PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(json.dumps(record(vectors)).encode()).decode())
    Image.new("RGB", (32, 32), "red").save(tmp_path / "x.png", pnginfo=info)
    embedding = open_embedding(tmp_path / "x.png")
    assert embedding.words == ("x", "fox-style") and torch.equal(embedding.vectors[0], vectors)


def test_pictures_without_an_embedding(tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    Image.new("RGB", (32, 32), "black").save(tmp_path / "black.png")
    striped = np.full((16, 31, 3), 200, np.uint8)
    striped[:, 10] = striped[:, 20] = 0
    Image.fromarray(striped).save(tmp_path / "striped.png")
    for name in ("red", "black", "striped"):
        with pytest.raises(CheckpointError, match="no embedding is hidden"):
            open_embedding(tmp_path / f"{name}.png")
    for text in (
        "never base64!",
        base64.b64encode(b"[[[").decode(),
        base64.b64encode(b'{"TORCHTENSOR": [[1], []]}').decode(),
    ):
        info = PngImagePlugin.PngInfo()
        info.add_text("sd-ti-embedding", text)
        Image.new("RGB", (32, 32)).save(tmp_path / "bad.png", pnginfo=info)
        with pytest.raises(CheckpointError, match="cannot be read"):
            open_embedding(tmp_path / "bad.png")


# --- what is refused


def test_wrong_width(sd1, tmp_path):
    save_file({"clip_l": drawn(2, 768), "clip_g": drawn(2, 1280)}, tmp_path / "x.safetensors")
    with pytest.raises(
        CheckpointError, match=r"768 and 1280 numbers a vector, for Stable Diffusion XL, .* reads 24: take"
    ):
        sd1[1].with_embeddings([tmp_path / "x.safetensors"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": drawn(2, 24), "b": drawn(2, 24)}, "not a checkpoint of a known family"),
        ({"lora_unet_x.lora_up.weight": drawn(2, 2), "lora_unet_x.lora_down.weight": drawn(2, 2)}, "This is a LoRA"),
        ({"clip_l": drawn(2, 24), "t5xxl": drawn(2, 24)}, "also holds t5xxl"),
        ({"emb_params": drawn(2, 3, 24)}, "no vectors of a word"),
        ({"<x>": torch.full((2, 24), float("nan"))}, "no vectors of a word"),
        ({"<x>": torch.zeros(2, 24, dtype=torch.int64)}, "no vectors of a word"),
    ],
)
def test_what_is_no_embedding(tmp_path, data, message):
    save_file(data, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=message):
        open_embedding(tmp_path / "x.safetensors")


def test_pickles_that_are_no_embedding(tmp_path):
    file = tmp_path / "x.pt"
    for data, message in (
        ({"string_to_param": {"*": drawn(2, 24), "+": drawn(2, 24)}}, "holds 2 words"),
        ({"string_to_param": 3}, "holds 0 words"),
        ([drawn(2, 24)], "holds a list"),
        ({"<x>": nn.Linear(2, 2)}, "holds more than tensors"),
    ):
        torch.save(data, file)
        with pytest.raises(CheckpointError, match=message):
            open_embedding(file)
    file.write_bytes(b"half")
    with pytest.raises(CheckpointError, match="not a complete"):
        open_embedding(file)
    with pytest.raises(CheckpointError, match="no embedding"):
        open_embedding(tmp_path / "absent.pt")
