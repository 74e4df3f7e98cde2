"""Image to image, inpainting and the refiner against diffusers' pipelines.

diffusers draws the latents of a picture from what the encoder says they may be, where eyesel takes their mean; so the
encoders here are sure of themselves, and the noise that comes after that draw is handed to eyesel.
"""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from eyesel import SettingError, StableDiffusion
from eyesel.images import fitted, from_pil
from tiny_models import write_painter, write_standard_painter

TOLERANCE = 1e-4
CLIPPED = 5e-4  # these random networks expect latents of about 25, which DDIM clips to 1: 2e-5 of what they were
PROMPT, NEGATIVE = "a large fox on a blue background", "red background"
SIZE = 64, 80
random = np.random.default_rng(0)
PICTURE = Image.fromarray(random.integers(0, 256, (10, 8, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
MASK = Image.new("L", SIZE)
MASK.paste(255, (8, 16, 40, 72))  # whole latents, so that both ways of making it smaller agree
SCHEDULERS = {
    "euler": diffusers.EulerDiscreteScheduler,
    "ddim": diffusers.DDIMScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
}


def sure_of_itself(folder):
    """The encoder's variance becomes e^-30."""
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    with torch.no_grad():
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -30
    vae.save_pretrained(folder / "vae")
    return folder


def both(folder, pipeline):
    sure_of_itself(folder)
    theirs = pipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    return StableDiffusion.load(folder, precision="float32"), theirs, folder


def noise_after(draws):
    """The noise that a pipeline draws behind so many encodings of a picture."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(draws + 1):
        noise = torch.randn(1, 4, SIZE[1] // 8, SIZE[0] // 8, generator=generator)
    return noise


def ours(painter, draws, **settings):
    for painting in painter.steps(PROMPT, negative=NEGATIVE, noise=noise_after(draws), seed=0, **settings):
        last = painting
    return last


def theirs_of(pipeline, **settings):
    generator = torch.Generator().manual_seed(7)
    return pipeline(PROMPT, negative_prompt=NEGATIVE, generator=generator, output_type="latent", **settings).images


def close(a, b, tolerance=TOLERANCE):
    return (a - b).abs().max().item() <= tolerance * max(1.0, b.abs().max().item())


IMAGE_TO_IMAGE = {
    "sd1": diffusers.StableDiffusionImg2ImgPipeline,
    "sd2": diffusers.StableDiffusionImg2ImgPipeline,
    "sdxl": diffusers.StableDiffusionXLImg2ImgPipeline,
    "refiner": diffusers.StableDiffusionXLImg2ImgPipeline,
}


@pytest.fixture(scope="module", params=IMAGE_TO_IMAGE)
def image_to_image(request, tmp_path_factory):
    write = write_standard_painter if request.param == "refiner" else write_painter
    return both(write(tmp_path_factory.mktemp(request.param), request.param), IMAGE_TO_IMAGE[request.param])


@pytest.mark.parametrize("solver", SCHEDULERS)
@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
def test_image_to_image(image_to_image, solver, strength):
    painter, pipeline, folder = image_to_image
    pipeline.scheduler = SCHEDULERS[solver].from_pretrained(folder, subfolder="scheduler")
    settings = {"strength": strength, "image": PICTURE}
    expected = theirs_of(pipeline, num_inference_steps=6, guidance_scale=5.0, **settings)
    last = ours(painter, draws=1, steps=6, guidance=5.0, solver=solver, **settings)
    assert last.total == int(6 * strength)
    assert close(last.latents, expected, CLIPPED if solver == "ddim" else TOLERANCE)


def test_the_encoder_is_that_of_diffusers(image_to_image):
    painter, pipeline, _ = image_to_image
    with torch.no_grad():
        expected = pipeline.vae.encode(from_pil([PICTURE])).latent_dist.mode() * pipeline.vae.config.scaling_factor
    assert close(painter.encode([PICTURE]), expected)


def test_a_refiner_needs_a_picture(image_to_image):
    painter, _, _ = image_to_image
    if painter.unet.config.added_dim == 5 * 8 + 20:
        with pytest.raises(SettingError, match="refiner, which finishes pictures"):
            painter.steps(PROMPT)


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def inpainting(request, tmp_path_factory):
    folder = write_standard_painter(tmp_path_factory.mktemp(request.param), request.param, in_channels=9)
    return both(folder, diffusers.StableDiffusionInpaintPipeline)


@pytest.mark.parametrize("solver", SCHEDULERS)
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_checkpoints_made_for_inpainting(inpainting, solver, strength):
    painter, pipeline, folder = inpainting
    pipeline.scheduler = SCHEDULERS[solver].from_pretrained(folder, subfolder="scheduler")
    settings = {"strength": strength, "image": PICTURE}
    sizes = {"width": SIZE[0], "height": SIZE[1]}
    expected = theirs_of(pipeline, num_inference_steps=5, guidance_scale=5.0, mask_image=MASK, **settings, **sizes)
    draws = 0 if strength == 1 else 1  # a picture that is all made anew is not encoded
    last = ours(painter, draws, steps=5, guidance=5.0, solver=solver, mask=MASK, mask_blur=0, **settings)
    assert close(last.latents, expected, CLIPPED if solver == "ddim" else TOLERANCE)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("solver", ["euler", "ddim"])
def test_ordinary_checkpoints_keep_what_is_not_masked(tmp_path, family, solver):
    """The noise that diffusers puts on the known part before each step is what our run carries along."""
    pipeline = {"sd1": diffusers.StableDiffusionInpaintPipeline, "sdxl": diffusers.StableDiffusionXLInpaintPipeline}
    painter, theirs, folder = both(write_painter(tmp_path, family), pipeline[family])
    theirs.scheduler = SCHEDULERS[solver].from_pretrained(folder, subfolder="scheduler", set_alpha_to_one=True)
    painter.scheduler["set_alpha_to_one"] = True
    settings = {"strength": 0.8, "image": PICTURE}
    sizes = {"width": SIZE[0], "height": SIZE[1]}
    expected = theirs_of(theirs, num_inference_steps=5, guidance_scale=5.0, mask_image=MASK, **settings, **sizes)
    last = ours(painter, draws=1, steps=5, guidance=5.0, solver=solver, mask=MASK, mask_blur=0, **settings)
    assert close(last.latents, expected)
    outside = torch.from_numpy(np.asarray(MASK) == 0)[::8, ::8]
    assert close(last.latents[:, :, outside], painter.encode([PICTURE])[:, :, outside])


def test_pictures_of_other_sizes_are_resized_as_diffusers_does(tmp_path):
    processor = diffusers.image_processor.VaeImageProcessor()
    expected = processor.preprocess(PICTURE, height=48, width=32)
    assert (from_pil([fitted(PICTURE, (32, 48))]) - expected).abs().max() <= 1e-6


ENLARGING = {  # AUTOMATIC1111's latent upscale modes
    "latent": {"mode": "bilinear", "antialias": False},
    "latent_antialiased": {"mode": "bilinear", "antialias": True},
    "latent_bicubic": {"mode": "bicubic", "antialias": False},
    "latent_bicubic_antialiased": {"mode": "bicubic", "antialias": True},
    "latent_nearest": {"mode": "nearest", "antialias": False},
    "latent_nearest_exact": {"mode": "nearest-exact", "antialias": False},
}


@pytest.mark.parametrize(("family", "upscaler"), [("sdxl", "latent"), *(("sd1", name) for name in ENLARGING)])
def test_the_second_pass_is_image_to_image_on_larger_latents(tmp_path, family, upscaler):
    painter, pipeline, folder = both(write_painter(tmp_path, family), IMAGE_TO_IMAGE[family])
    pipeline.scheduler = SCHEDULERS["euler"].from_pretrained(folder, subfolder="scheduler")
    settings = {"steps": 6, "guidance": 5.0, "negative": NEGATIVE, "solver": "euler", "size": (32, 40), "seed": 7}
    hires = {"hires": 1.6, "hires_steps": 8, "hires_strength": 0.5, "hires_upscaler": upscaler}
    for painting in painter.steps(PROMPT, **hires, **settings):
        if painting.index == 5:
            small = painting.latents
    assert (painting.total, painting.latents.shape[2:]) == (10, (8, 6))
    larger = torch.nn.functional.interpolate(small, (8, 6), **ENLARGING[upscaler])
    expected = theirs_of(pipeline, image=larger, strength=0.5, num_inference_steps=8, guidance_scale=5.0)
    assert close(painting.latents, expected)
