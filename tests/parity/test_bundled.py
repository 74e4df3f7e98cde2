"""The bundled checkpoints are in public formats: what transformers and diffusers make of them is what eyesel does."""

import diffusers
import numpy as np
import pytest
import torch
import transformers

from eyesel import ImageClassifier, StableDiffusion, open_image
from eyesel.weights.hub import ASSETS, resolve

TOLERANCE = 1e-4
EXAMPLES = sorted((ASSETS / "tiny" / "examples").glob("*.png"))
PROMPT = "a large fox on a blue background"


@pytest.fixture(scope="module")
def eye():
    return ImageClassifier.load("tiny", precision="float32")


@pytest.fixture(scope="module")
def easel():
    return StableDiffusion.load("tiny", precision="float32")


def test_together_at_most_30_megabytes():
    files = [path for path in (ASSETS / "tiny").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 30e6


def test_classifier_in_transformers(eye):
    folder = resolve("tiny", kind="classifier")
    theirs = transformers.ViTForImageClassification.from_pretrained(folder)
    processor = transformers.ViTImageProcessorPil.from_pretrained(folder)
    images = [open_image(path) for path in EXAMPLES]
    with torch.no_grad():
        expected = theirs(**processor(images, return_tensors="pt")).logits
    assert (eye.logits(images) - expected).abs().max().item() <= TOLERANCE * max(1, expected.abs().max().item())
    assert list(eye.labels) == list(theirs.config.id2label.values())


def test_painter_in_diffusers(easel):
    folder = resolve("tiny", kind="painter")
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        PROMPT, num_inference_steps=25, guidance_scale=7.5, generator=torch.Generator().manual_seed(7), output_type="np"
    ).images[0]
    ours = np.asarray(easel.generate(PROMPT, seed=7, steps=25, guidance=7.5).image) / 255
    assert np.abs(ours - expected).max() <= 1.01 / 255  # at most the rounding to 8 bits


def test_the_eye_knows_the_examples(eye):
    assert EXAMPLES
    for path in EXAMPLES:
        assert eye.classify(path, top_k=1)[0].label == path.stem.replace("-", " ")


def test_the_eye_recognises_what_the_easel_paints(eye, easel):
    """A spot check; recipes/tiny/evaluate.py measures it on 500 held-out prompts."""
    labels = ["fox", "owl", *eye.labels[::8]]
    prompts = [f"a large {label} on a {colour} background" for label in labels for colour in ("blue", "yellow")]
    pictures = easel.generate(prompts, seed=1)
    hits = [eye.classify(p.image, top_k=1)[0].label in prompt for p, prompt in zip(pictures, prompts, strict=True)]
    assert np.mean(hits) >= 0.6  # chance is 1.6 %


def test_attention_lies_on_the_object(eye):
    """Of the rollout's mass, more than its share falls on pixels that differ from the background."""
    for path in EXAMPLES:
        picture = open_image(path)
        heat = eye.attention(picture).heat
        rows, columns = heat.shape
        pixels = np.asarray(picture.resize((columns, rows)), dtype=float)
        background = np.median(np.asarray(picture, dtype=float)[[0, -1]].reshape(-1, 3), axis=0)
        on_object = torch.from_numpy(np.abs(pixels - background).max(axis=-1) > 40)
        share = (heat * on_object).sum() / heat.sum()
        assert share > on_object.float().mean()
