"""The whole way from a prompt to pixels, and from pixels to scores, against diffusers and transformers."""

import diffusers
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from eyesel import CheckpointError, ImageClassifier, SettingError, StableDiffusion
from tiny_models import write_classifier, write_painter, write_standard_painter

TOLERANCE = 1e-4
PROMPTS = ["a large fox on a blue background", "a small owl"]
NEGATIVE = "red background"
SCHEDULERS = {
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "ddim": diffusers.DDIMScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
}


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def painter(request, tmp_path_factory):
    folder = write_painter(tmp_path_factory.mktemp(request.param), request.param)
    theirs = diffusers.DiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    return StableDiffusion.load(folder, precision="float32"), theirs, folder


def their_latents(pipeline, folder, solver, prompts, **settings):
    pipeline.scheduler = SCHEDULERS[solver].from_pretrained(folder, subfolder="scheduler")
    return pipeline(
        prompts,
        num_inference_steps=settings.pop("steps"),
        guidance_scale=settings.pop("guidance"),
        generator=[torch.Generator().manual_seed(7 + i) for i in range(len(prompts))],
        output_type="latent",
        **settings,
    ).images


def our_last(painter, prompts, **settings):
    for painting in painter.steps(prompts, seed=7, **settings):
        last = painting
    return last


@pytest.mark.parametrize("solver", SCHEDULERS)
def test_text_to_image(painter, solver):
    ours, theirs, folder = painter
    expected = their_latents(
        theirs, folder, solver, PROMPTS, steps=6, guidance=5.0, negative_prompt=[NEGATIVE] * 2, width=64, height=80
    )
    last = our_last(ours, PROMPTS, steps=6, guidance=5.0, negative=NEGATIVE, solver=solver, size=(64, 80))
    assert last.latents.shape == expected.shape
    scale = max(1.0, expected.abs().max().item())
    assert (last.latents - expected).abs().max().item() <= TOLERANCE * scale

    with torch.no_grad():
        pixels = theirs.vae.decode(expected / theirs.vae.config.scaling_factor).sample
    pictures = theirs.image_processor.postprocess(pixels, output_type="np")
    for ours_, theirs_ in zip(last.pictures(), pictures, strict=True):
        assert np.abs(np.asarray(ours_.image) / 255 - theirs_).max() <= 1.01 / 255


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_as_shipped(painter, rescale):
    """The checkpoint's own scheduler, PNDM, DDIM or Euler, and rescaled guidance."""
    ours, theirs, folder = painter
    shipped = diffusers.DiffusionPipeline.load_config(folder)["scheduler"][1]
    theirs.scheduler = getattr(diffusers, shipped).from_pretrained(folder, subfolder="scheduler")
    generators = [torch.Generator().manual_seed(7 + i) for i in range(len(PROMPTS))]
    settings = {"guidance_scale": 5.0, "guidance_rescale": rescale, "negative_prompt": [NEGATIVE] * 2}
    expected = theirs(PROMPTS, num_inference_steps=6, generator=generators, output_type="latent", **settings).images
    last = our_last(ours, PROMPTS, steps=6, guidance=5.0, guidance_rescale=rescale, negative=NEGATIVE)
    assert (last.latents - expected).abs().max().item() <= TOLERANCE * max(1.0, expected.abs().max().item())


def test_schedules_intervals_and_generators_change_the_picture_alone(painter):
    """What is asked for is kept in the picture's settings, and asking for it again gives the picture again."""
    ours, _, _ = painter
    plain = our_last(ours, PROMPTS[:1], steps=4, solver="DPM++ 2M").latents
    for change in (
        {"schedule": "Karras"},
        {"schedule": "AYS"},
        {"guidance_interval": (0.5, 5.0)},
        {"rng": "philox"},
        {"solver": "DPM++ 2M SDE", "eta": 0.5},
    ):
        settings = {"solver": "DPM++ 2M", **change}
        last = our_last(ours, PROMPTS[:1], steps=4, **settings)
        assert not torch.allclose(last.latents, plain, atol=1e-2), change
        picture = last.pictures()[0]
        again = {key: picture.settings[key] for key in ("solver", "schedule", "eta", "rng", "guidance_interval")}
        assert torch.equal(our_last(ours, PROMPTS[:1], steps=4, **again).latents, last.latents), change
    whole = our_last(ours, PROMPTS[:1], steps=4, solver="DPM++ 2M", guidance_interval=(0.0, 1000.0)).latents
    assert torch.equal(whole, plain)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_without_a_negative_prompt(painter, guidance):
    """SDXL then takes zeros instead of the empty prompt; guidance 1 is a single pass."""
    ours, theirs, folder = painter
    expected = their_latents(theirs, folder, "euler", PROMPTS, steps=3, guidance=guidance)
    latents = our_last(ours, PROMPTS, steps=3, guidance=guidance, solver="euler").latents
    assert (latents - expected).abs().max().item() <= TOLERANCE * max(1.0, expected.abs().max().item())


def test_same_picture_alone_and_in_a_batch(painter):
    ours, _, _ = painter
    batch = our_last(ours, PROMPTS, steps=4, solver="euler_ancestral").latents
    alone = our_last(ours, [PROMPTS[0]], steps=4, solver="euler_ancestral").latents
    assert torch.allclose(batch[:1], alone, atol=TOLERANCE)
    noise = torch.randn(batch.shape, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(our_last(ours, PROMPTS, steps=4, noise=noise).latents, batch, atol=0.1)


PICTURES = {
    "RGB": Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)),
    "L": Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32), dtype=np.uint8)),
    "small": Image.fromarray(np.random.default_rng(2).integers(0, 256, (5, 9, 3), dtype=np.uint8)),
}


@pytest.mark.parametrize("picture", PICTURES)
def test_classifier_from_pixels_to_scores(tmp_path, picture):
    folder = write_classifier(tmp_path)
    processor = transformers.ViTImageProcessorPil.from_pretrained(folder)
    theirs = transformers.ViTForImageClassification.from_pretrained(folder)
    eye = ImageClassifier.load(folder, precision="float32")
    image = PICTURES[picture]
    with torch.no_grad():
        expected = theirs(**processor(image.convert("RGB"), return_tensors="pt")).logits[0]
    assert (eye.logits(image) - expected).abs().max().item() <= TOLERANCE
    best = eye.classify(image, top_k=3)
    scores = expected.softmax(-1)
    assert [p.label for p in best] == [theirs.config.id2label[i.item()] for i in scores.argsort(descending=True)[:3]]
    assert best[0].score == pytest.approx(scores.max().item(), abs=TOLERANCE)


@pytest.mark.parametrize("layer", [0, 1, 2, -2, -3])
def test_embeddings_are_hidden_states(tmp_path, layer):
    folder = write_classifier(tmp_path)
    processor = transformers.ViTImageProcessorPil.from_pretrained(folder)
    theirs = transformers.ViTForImageClassification.from_pretrained(folder)
    eye = ImageClassifier.load(folder, precision="float32")
    with torch.no_grad():
        pixels = processor([PICTURES["RGB"], PICTURES["small"]], return_tensors="pt")
        hidden = theirs(**pixels, output_hidden_states=True).hidden_states
        final = theirs.vit(**pixels).last_hidden_state
    images = [PICTURES["RGB"], PICTURES["small"]]
    assert np.abs(eye.embed(images, "none", layer) - hidden[layer].numpy()).max() <= TOLERANCE
    assert np.abs(eye.embed(images, "cls", layer) - hidden[layer][:, 0].numpy()).max() <= TOLERANCE
    assert np.abs(eye.embed(images, "mean") - final[:, 1:].mean(1).numpy()).max() <= TOLERANCE
    assert np.abs(eye.embed(images[0]) - final[0, 0].numpy()).max() <= TOLERANCE


def test_attention_maps_are_the_eager_ones(tmp_path):
    folder = write_classifier(tmp_path)
    processor = transformers.ViTImageProcessorPil.from_pretrained(folder)
    theirs = transformers.ViTForImageClassification.from_pretrained(folder, attn_implementation="eager")
    eye = ImageClassifier.load(folder, precision="float32")
    image = PICTURES["RGB"]
    with torch.no_grad():
        expected = theirs(**processor(image, return_tensors="pt"), output_attentions=True).attentions
    result = eye.attention(image)
    assert (result.maps - torch.cat(expected)).abs().max().item() <= TOLERANCE
    one = eye.attention(image, "attention", layer=1, head=2)
    assert (one.heat.flatten() - expected[1][0, 2, 0, 1:]).abs().max().item() <= TOLERANCE
    assert result.overlay().width / result.overlay().height == pytest.approx(70 / 45, rel=0.02)


@pytest.mark.parametrize(
    ("part", "change", "complaint"),
    [
        ("unet", {"cross_attention_dim": 32}, "24 numbers a token and the UNet reads 32"),
        ("unet", {"in_channels": 5}, "maps 5 channels to 4"),
    ],
)
def test_parts_that_do_not_belong_together(tmp_path, part, change, complaint):
    folder = write_painter(tmp_path, "sd1")
    config = diffusers.UNet2DConditionModel.load_config(folder / part)
    diffusers.UNet2DConditionModel.from_config({**config, **change}).save_pretrained(folder / part)
    with pytest.raises(CheckpointError, match=complaint):
        StableDiffusion.load(folder)


def test_an_inpainting_folder_opens_and_does_not_paint_from_words(tmp_path):
    painter = StableDiffusion.load(write_standard_painter(tmp_path, "sd1", in_channels=9))
    with pytest.raises(SettingError, match="inpainting checkpoint, of 9 input channels"):
        painter.generate("a fox")


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt": None},
        {"prompt": ["a fox", 3]},
        {"size": 32},
        {"size": (32.0, 32)},
        {"seed": 1.5},
        {"seed": "7"},
        {"guidance": "7"},
        {"n": 0},
        {"negative": ["red"]},
    ],
    ids=str,
)
def test_settings_of_the_wrong_type(tmp_path_factory, settings):
    ours = StableDiffusion.load("tiny")
    with pytest.raises(SettingError):
        ours.steps(**{"prompt": "a fox", "steps": 1, **settings})


def test_numpy_seeds_are_seeds():
    ours = StableDiffusion.load("tiny")
    picture = ours.generate("a fox", steps=1, seed=np.int64(7))
    assert picture.seed == 7 and type(picture.seed) is int


def test_a_checkpoint_recommends_its_settings(tmp_path):
    folder = write_painter(tmp_path, "sd1")
    usual = StableDiffusion.load(folder).generate("a fox", seed=1)
    assert (usual.settings["steps"], usual.settings["guidance"]) == (25, 7.5)
    (folder / "generation_config.json").write_text('{"guidance_scale": 2.5, "num_inference_steps": 3, "other": []}')
    ours = StableDiffusion.load(folder)
    assert {ours.generate("a fox", seed=1).settings[key] for key in ("steps", "guidance")} == {3, 2.5}
    assert ours.generate("a fox", seed=1, steps=2, guidance=1.0).settings["steps"] == 2
    (folder / "generation_config.json").write_text('{"guidance_scale": "high"}')
    with pytest.raises(CheckpointError, match="guidance_scale as 'high'"):
        StableDiffusion.load(folder)
