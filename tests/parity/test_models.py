"""Every network against transformers and diffusers: the same random weights, saved by them and read by our loader."""

import diffusers
import pytest
import torch
import transformers

from eyesel.models.autoencoder import Autoencoder
from eyesel.models.clip_text import ClipText
from eyesel.models.unet import SizeConditioning, UNet
from eyesel.weights import clip_format, diffusers_format
from eyesel.weights.checkpoint import open_vit
from eyesel.weights.files import find_weights, open_tensors, read_json
from eyesel.weights.load import load
from tiny_models import CROSS, CROSS_UP, PLAIN, PLAIN_UP, randomise

TOLERANCE = 1e-4
CPU = torch.device("cpu")


def difference(ours, theirs):
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


VIT = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 7,
}


@pytest.mark.parametrize("change", [{}, {"qkv_bias": False}, {"hidden_act": "quick_gelu"}, {"layer_norm_eps": 1e-6}])
def test_vit_classifier(tmp_path, change):
    theirs = randomise(transformers.ViTForImageClassification(transformers.ViTConfig(**{**VIT, **change})))
    theirs.save_pretrained(tmp_path)
    ours, _ = open_vit(tmp_path, CPU)
    pixels = noise(2, 3, 32, 32)
    with torch.no_grad():
        assert difference(ours(pixels), theirs(pixels).logits) <= TOLERANCE


@pytest.mark.parametrize("pooler", [True, False])
def test_vit_hidden_states_and_pooler(tmp_path, pooler):
    theirs = randomise(transformers.ViTModel(transformers.ViTConfig(**VIT), add_pooling_layer=pooler))
    theirs.save_pretrained(tmp_path)
    ours, _ = open_vit(tmp_path, CPU)
    pixels = noise(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True)
        hidden = list(ours.hidden_states(pixels))
        tokens = ours.features(pixels)
        # transformers 5 counts the final norm's output as the last hidden state; before the norm it is not reported
        assert len(hidden) == len(expected.hidden_states) == 4
        assert max(map(difference, hidden[:-1], expected.hidden_states[:-1])) <= TOLERANCE
        assert difference(tokens, expected.last_hidden_state) <= TOLERANCE
        assert (ours.pooler is not None) == pooler
        if pooler:
            assert difference(ours.pooled(tokens), expected.pooler_output) <= TOLERANCE


@pytest.mark.parametrize("size", [(48, 48), (64, 32), (24, 56), (32, 40)])
def test_vit_at_another_image_size(tmp_path, size):
    theirs = randomise(transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)))
    theirs.save_pretrained(tmp_path)
    ours, _ = open_vit(tmp_path, CPU)
    pixels = noise(1, 3, *size)
    with torch.no_grad():
        assert difference(ours(pixels), theirs(pixels, interpolate_pos_encoding=True).logits) <= TOLERANCE


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "quick_gelu", "eos_token_id": 2},
        {"hidden_act": "gelu", "eos_token_id": 99},
    ],
    ids=["openai", "openclip"],
)
@pytest.mark.parametrize("projection", [False, True])
def test_clip_text(tmp_path, change, projection):
    config = transformers.CLIPTextConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        projection_dim=24,
        bos_token_id=98,
        **change,
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    theirs = randomise(kind(config))
    theirs.save_pretrained(tmp_path)
    ours = load(
        lambda shapes: ClipText(clip_format.from_transformers_config(read_json(tmp_path / "config.json"), shapes)),
        open_tensors(find_weights(tmp_path)),
        clip_format.CLIP_TEXT,
        tmp_path,
        CPU,
    )
    ids = torch.randint(0, 98, (2, 77), generator=torch.Generator().manual_seed(0))
    ids[0, 5:], ids[1, 40:] = 99, 99
    with torch.no_grad():
        features, expected = ours(ids), theirs(ids, output_hidden_states=True)
    assert difference(features.last, expected.last_hidden_state) <= TOLERANCE
    assert difference(features.penultimate, expected.hidden_states[-2]) <= TOLERANCE
    assert difference(features.pooled, expected.text_embeds if projection else expected.pooler_output) <= TOLERANCE


SMALL = {"norm_num_groups": 8, "layers_per_block": 2, "sample_size": 16, "cross_attention_dim": 24}
UNETS = {
    "sd1": {
        "block_out_channels": (16, 32, 32, 32),
        "down_block_types": (CROSS, CROSS, CROSS, PLAIN),
        "up_block_types": (PLAIN_UP, CROSS_UP, CROSS_UP, CROSS_UP),
        "attention_head_dim": 2,
    },
    "sd2": {
        "block_out_channels": (16, 32, 32, 32),
        "down_block_types": (CROSS, CROSS, CROSS, PLAIN),
        "up_block_types": (PLAIN_UP, CROSS_UP, CROSS_UP, CROSS_UP),
        "attention_head_dim": (1, 2, 4, 4),
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (16, 32, 32),
        "down_block_types": (PLAIN, CROSS, CROSS),
        "up_block_types": (CROSS_UP, CROSS_UP, PLAIN_UP),
        "attention_head_dim": (1, 2, 4),
        "transformer_layers_per_block": (1, 2, 3),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 20,
    },
    "inpainting": {
        "block_out_channels": (16, 32),
        "down_block_types": (CROSS, PLAIN),
        "up_block_types": (PLAIN_UP, CROSS_UP),
        "attention_head_dim": 2,
        "in_channels": 9,
    },
    "instruct-pix2pix": {
        "block_out_channels": (16, 32),
        "down_block_types": (CROSS, PLAIN),
        "up_block_types": (PLAIN_UP, CROSS_UP),
        "attention_head_dim": 2,
        "in_channels": 8,
        "layers_per_block": 1,
    },
}


def load_unet(folder):
    config = diffusers_format.unet_config(read_json(folder / "config.json"))
    return load(lambda _: UNet(config), open_tensors(find_weights(folder)), diffusers_format.UNET, folder, CPU)


@pytest.mark.parametrize("shape", UNETS)
@pytest.mark.parametrize("size", [(16, 16), (16, 24), (13, 11)], ids=str)
def test_unet(tmp_path, shape, size):
    theirs = randomise(diffusers.UNet2DConditionModel(**{**SMALL, **UNETS[shape]}))
    theirs.save_pretrained(tmp_path)
    ours = load_unet(tmp_path)
    x, context = noise(2, ours.config.in_channels, *size), noise(2, 7, 24, seed=2)
    t = torch.tensor([981.0, 20.5])
    pooled, sizes = noise(2, 20, seed=3), torch.tensor([[1024.0, 768, 0, 32, 1024, 768]] * 2)
    xl = shape == "sdxl"
    with torch.no_grad():
        expected = theirs(
            x, t, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes} if xl else None
        ).sample
        result = ours(x, t, context, SizeConditioning(pooled, sizes) if xl else None)
    assert difference(result, expected) <= TOLERANCE * max(1.0, expected.abs().max().item())


AUTOENCODERS = {
    "sd1": {"block_out_channels": (16, 32, 32), "layers_per_block": 2},
    "16 channels": {"block_out_channels": (16, 32), "latent_channels": 16, "mid_block_add_attention": False},
    "without quantising convolutions": {
        "block_out_channels": (16, 32),
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "shift_factor": 0.1,
        "scaling_factor": 0.3611,
    },
}


@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_autoencoder(tmp_path, kind):
    settings = AUTOENCODERS[kind]
    levels = len(settings["block_out_channels"])
    theirs = randomise(
        diffusers.AutoencoderKL(
            norm_num_groups=8,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            **settings,
        )
    )
    theirs.save_pretrained(tmp_path)
    config = diffusers_format.autoencoder_config(read_json(tmp_path / "config.json"))
    ours = load(
        lambda _: Autoencoder(config),
        open_tensors(find_weights(tmp_path)),
        diffusers_format.AUTOENCODER,
        tmp_path,
        CPU,
    )
    images = noise(2, 3, 32, 40).clamp(-1, 1)
    with torch.no_grad():
        posterior = theirs.encode(images).latent_dist
        shift, scale = config.shift_factor, config.scaling_factor
        latents = ours.encode(images)
        assert difference(latents, (posterior.mean - shift) * scale) <= TOLERANCE
        draw = noise(*latents.shape, seed=5)
        assert (
            difference(ours.encode(images, draw), (posterior.mean + posterior.std * draw - shift) * scale) <= TOLERANCE
        )
        assert difference(ours.decode(latents), theirs.decode(latents / scale + shift).sample) <= TOLERANCE
