"""Single files against diffusers: the same pictures, and names that its own converters turn back."""

import json

import diffusers
import pytest
import torch
import transformers
from diffusers.loaders import single_file_utils
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ldm_spelling
from eyesel import SettingError, StableDiffusion
from eyesel.models.unet import UNet, UNetConfig
from eyesel.text.tokenizer import ClipTokenizer
from eyesel.weights import families, ldm_format
from eyesel.weights.checkpoint import open_painter
from eyesel.weights.convert import convert
from eyesel.weights.load import build
from eyesel.weights.views import HeldTensor
from tiny_models import write_standard_painter

TOLERANCE = 1e-4
FAMILIES = ["sd1", "sd2", "sdxl", "refiner"]
METADATA = {
    "sd2": {"modelspec.prediction_type": "v", "modelspec.resolution": "64x64", "modelspec.author": "me"},
    "sd1": {"modelspec.resolution": "64x64", "ss_tag_frequency": "{}"},
}


@pytest.fixture(scope="module", params=FAMILIES)
def painter(request, tmp_path_factory):
    """The family, and a folder with a painter of it in both formats and what converting made of them."""
    home = tmp_path_factory.mktemp(request.param)
    folder = write_standard_painter(home / "folder", request.param)
    config = json.loads((folder / "unet" / "config.json").read_text())
    state = ldm_spelling.whole(folder, request.param, config)
    save_file(state, home / "file.safetensors", METADATA.get(request.param, {"modelspec.resolution": "64x64"}))
    convert(home / "file.safetensors", home / "converted", "diffusers")
    convert(home / "converted", home / "back.safetensors", "single-file")
    convert(folder, home / "direct.safetensors", "single-file")
    return request.param, home


def latents_of(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    settings = {"num_inference_steps": 4, "guidance_scale": 5.0, "width": 64, "height": 64}
    return pipeline("a large fox", negative_prompt="red", generator=generator, output_type="latent", **settings).images


def our_latents(path):
    for painting in StableDiffusion.load(path, precision="float32").steps(
        "a large fox", negative="red", seed=7, steps=4, guidance=5.0, size=(64, 64), solver="euler"
    ):
        last = painting
    return last.latents


def test_the_same_picture(painter):
    """The file as eyesel opens it, and the converted folder as diffusers and eyesel open it."""
    family, home = painter
    if family == "refiner":
        for name in ("file.safetensors", "converted", "folder"):
            with pytest.raises(SettingError, match="refiner"):
                our_latents(home / name)
        return
    theirs = []
    for folder in ("folder", "converted"):
        pipeline = diffusers.DiffusionPipeline.from_pretrained(home / folder)
        pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
        theirs.append(latents_of(pipeline))
    assert torch.equal(*theirs)
    ours = [our_latents(home / name) for name in ("file.safetensors", "converted", "back.safetensors")]
    assert (ours[0] - theirs[0]).abs().max().item() <= TOLERANCE * max(1.0, theirs[0].abs().max().item())
    assert all(torch.allclose(ours[0], other, atol=TOLERANCE) for other in ours[1:])


def test_every_tensor_comes_back(painter):
    """File to folder to file, and folder to file to folder: the same names, shapes, types and bits."""
    _, home = painter
    dropped = ("logit_scale", "position_ids")
    file = {k: v for k, v in load_file(home / "file.safetensors").items() if not k.endswith(dropped)}
    for name in ("back.safetensors", "direct.safetensors"):
        same(file, {k: v for k, v in load_file(home / name).items() if k not in ("v_pred", "ztsnr")})
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        for weights in (home / "folder" / part).glob("*.safetensors"):
            plain = {k.removeprefix("text_model."): v for k, v in load_file(weights).items()}
            made = load_file(home / "converted" / part / weights.name)
            same(plain, {k.removeprefix("text_model."): v for k, v in made.items()})


def same(expected, found):
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert tensor.dtype == found[name].dtype and torch.equal(tensor, found[name]), name


def test_what_the_file_said_is_kept(painter):
    family, home = painter
    with safe_open(home / "back.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata.items() >= METADATA.get(family, {}).items()
    assert metadata["modelspec.architecture"].startswith(
        {"sd1": "stable-diffusion-v1", "sd2": "stable-diffusion-v2-768-v"}.get(family, "stable-diffusion-xl-v1-")
    )
    assert metadata["modelspec.prediction_type"] == ("v" if family == "sd2" else "epsilon")
    assert ("v_pred" in load_file(home / "back.safetensors")) == (family == "sd2")


def test_diffusers_own_converters_agree(painter):
    family, home = painter
    state = load_file(home / "direct.safetensors")
    unet = diffusers.UNet2DConditionModel.from_pretrained(home / "folder", subfolder="unet")
    same(unet.state_dict(), single_file_utils.convert_ldm_unet_checkpoint(dict(state), unet.config))
    vae = diffusers.AutoencoderKL.from_pretrained(home / "folder", subfolder="vae")
    same(vae.state_dict(), single_file_utils.convert_ldm_vae_checkpoint(dict(state), vae.config))
    for encoder in families.FAMILIES[["sdxl", "refiner", "sd2", "sd1"].index(family)].text_encoders:
        projected = encoder.folder == "text_encoder_2"
        kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
        model = kind.from_pretrained(home / "folder", subfolder=encoder.folder)
        if encoder.prefix.endswith("model."):
            # diffusers takes the rows of the projection for the width, which they are in every published encoder
            made = single_file_utils.convert_open_clip_checkpoint(model, dict(state), encoder.prefix)
        else:
            made = {k.removeprefix(encoder.prefix): v for k, v in state.items() if k.startswith(encoder.prefix)}
        theirs = {k.removeprefix("text_model."): v for k, v in model.state_dict().items() if "position_ids" not in k}
        same(theirs, {k.removeprefix("text_model."): v for k, v in made.items()})


def test_diffusers_recognises_the_family():
    """By the keys that it decides on, for a network of the published size (without memory)."""
    key = single_file_utils.CHECKPOINT_KEY_NAMES
    assert key["v1"] in ldm_names(SIZES["sd1"])
    assert ldm_names(SIZES["sd2"])[key["v2"]][-1] == 1024
    assert key["v2"] not in ldm_names(SIZES["sdxl"])


SIZES = {
    "sd1": UNetConfig(),
    "sd1-inpainting": UNetConfig(in_channels=9),
    "sd2": UNetConfig(heads=(5, 10, 20, 20), context_dim=1024, linear_projection=True),
    "sdxl": UNetConfig(
        channels=(320, 640, 1280),
        transformer_depth=(0, 2, 10),
        mid_transformer_depth=10,
        heads=(5, 10, 20),
        context_dim=2048,
        linear_projection=True,
        size_dim=256,
        added_dim=2816,
        sample_size=128,
    ),
    "refiner": UNetConfig(
        channels=(384, 768, 1536, 1536),
        transformer_depth=(0, 4, 4, 0),
        mid_transformer_depth=4,
        heads=(6, 12, 24, 24),
        context_dim=1280,
        linear_projection=True,
        size_dim=256,
        added_dim=2560,
        sample_size=128,
    ),
}


def ldm_names(config):
    held = {name: HeldTensor(p) for name, p in build(lambda: UNet(config)).named_parameters()}
    written = ldm_format.unet_table(config).written(held)
    return {ldm_format.UNET_PREFIX + name: tuple(stored.shape) for name, stored in written.items()}


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes(size):
    """The numbering of the published networks, and their configuration read off the shapes alone."""
    config = SIZES[size]
    names = ldm_names(config)
    model = build(lambda: UNet(config))
    assert len(names) == len(list(model.parameters()))
    family = {"sd2": families.SD2, "sdxl": families.SDXL, "refiner": families.REFINER}.get(size, families.SD1)
    shapes = ldm_format.under(names, ldm_format.UNET_PREFIX)
    heads, numbers = family.heads, family.size_numbers
    assert ldm_format.unet_config(shapes, heads, numbers, 1280, config.sample_size) == config
    table = ldm_format.unet_table(config)
    assert {table.read(name)[0] for name in shapes} == {name for name, _ in model.named_parameters()}
    last = {"sdxl": 8}.get(size, 11)
    assert f"{ldm_format.UNET_PREFIX}output_blocks.{last}.0.skip_connection.weight" in names
    assert f"{ldm_format.UNET_PREFIX}output_blocks.{last + 1}.0.in_layers.0.weight" not in names


@pytest.mark.parametrize("painter", ["sd2"], indirect=True)
@pytest.mark.parametrize(("bias", "answer"), [(-3.0, "v_prediction"), (0.5, "epsilon")])
def test_stable_diffusion_2_without_metadata_is_asked(painter, bias, answer, tmp_path):
    _, home = painter
    state = load_file(home / "file.safetensors")
    state[ldm_format.UNET_PREFIX + "out.2.weight"].zero_()
    state[ldm_format.UNET_PREFIX + "out.2.bias"].fill_(bias)
    save_file(state, tmp_path / "x.safetensors")
    stored = open_painter(tmp_path / "x.safetensors")
    assert (stored.prediction.type, stored.prediction.rule) == (answer, "the network's own answer")
    assert stored.unet.config.sample_size == (96 if answer == "v_prediction" else 64)


def test_the_layer_that_stable_diffusion_2_skips():
    assert ldm_format.OPEN_CLIP_SD2.read("transformer.resblocks.23.attn.in_proj_weight") is True
    assert ldm_format.OPEN_CLIP_SD2.read("text_projection") is True
    assert ldm_format.OPEN_CLIP.read("transformer.resblocks.23.ln_1.weight") == ("layers.23.norm1.weight",)


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_the_vocabulary_is_that_of_clip(tmp_path, pad):
    """Ids as published with CLIP, and those of transformers from the files that are written."""
    ours = ClipTokenizer.bundled(pad)
    assert len(ours) == 49408 and (ours.bos_id, ours.eos_id) == (49406, 49407)
    astronaut = "a photo of an astronaut riding a horse on mars"
    assert ours.ids(astronaut) == [320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496]
    assert ours.pad_id == (0 if pad == "!" else 49407)
    ours.save(tmp_path)
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    again = ClipTokenizer.load(tmp_path)
    texts = ["", "Naïve café, 42 foxes & <|endoftext|> an owl!", "狐狸 🦊 isn't it?", "masterpiece (best quality:1.2)"]
    expected = theirs(texts, padding="max_length", max_length=77, truncation=True).input_ids
    for tokenizer in (ours, again):
        for text, row in zip(texts, expected, strict=True):
            own = [tokenizer.bos_id, *tokenizer.ids(text), tokenizer.eos_id]
            assert own + [tokenizer.pad_id] * (77 - len(own)) == row


def test_the_scheduler_is_that_of_the_family(painter):
    _, home = painter
    stored = open_painter(home / "file.safetensors")
    theirs = json.loads((home / "folder" / "scheduler" / "scheduler_config.json").read_text())
    for key in ("_class_name", "beta_start", "beta_end", "beta_schedule", "prediction_type", "steps_offset"):
        assert stored.scheduler[key] == theirs[key]
