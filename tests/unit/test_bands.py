"""Bands of rows give the numbers of the plain computation, without seams, for every size."""

import diffusers
import pytest
import torch

from eyesel.models.autoencoder import Autoencoder, AutoencoderConfig
from eyesel.nn import bands
from eyesel.nn.seamless import seamless
from eyesel.weights import diffusers_format
from eyesel.weights.load import build, fill
from eyesel.weights.views import HeldTensor
from tiny_models import randomise

GENERATOR = torch.Generator().manual_seed(0)


def autoencoder(**change):
    config = {"channels": (8, 16, 24), "layers_per_block": 1, "norm_groups": 4, **change}
    return randomise(Autoencoder(AutoencoderConfig(**config))).requires_grad_(False)


def draw(*shape):
    return torch.randn(shape, generator=GENERATOR)


def banded(stack, x, band):
    return bands.run(stack.conv_in, stack.layers(), stack.conv_norm_out, stack.conv_out, x, band)


def plain(stack, x):
    assert not bands.pays(x, stack.conv_in, stack.largest(x))
    return stack(x)


def close(a, b, tolerance=2e-5):
    return a.shape == b.shape and (a - b).abs().max() <= tolerance * max(1, b.abs().max())


@pytest.mark.parametrize("wrap", [False, True], ids=["edges", "seamless"])
@pytest.mark.parametrize("band", [1, 500, 2_000, 10_000, 1 << 30])
@pytest.mark.parametrize("size", [(4, 4), (1, 6), (7, 5), (5, 12)])
def test_decoders_and_encoders(size, band, wrap):
    """A band of 1 is one row at a time; the last one is all of the map."""
    model = seamless(autoencoder()) if wrap else autoencoder()
    if wrap and 1 in size:
        size = (2, 6)  # a row beyond the edge of a single row would be that row
    latents = draw(2, 4, *size)
    with torch.inference_mode():
        assert close(banded(model.decoder, latents, band), plain(model.decoder, latents))
        pictures = draw(2, 3, 4 * size[0], 4 * size[1])
        assert close(banded(model.encoder, pictures, band), plain(model.encoder, pictures))


@pytest.mark.parametrize("size", [(33, 50), (32, 31)])
def test_pictures_that_are_no_multiple_of_the_factor(size):
    model = autoencoder()
    pictures = draw(1, 3, *size)
    with torch.inference_mode():
        assert close(banded(model.encoder, pictures, 1_000), plain(model.encoder, pictures))


@pytest.mark.parametrize("change", [{"mid_attention": False}, {"channels": (8, 8)}, {"channels": (16,)}], ids=str)
def test_other_shapes_of_autoencoders(change):
    model = autoencoder(**change)
    latents = draw(1, 4, 6, 5)
    with torch.inference_mode():
        assert close(banded(model.decoder, latents, 700), plain(model.decoder, latents))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_as_without_bands(dtype):
    model = autoencoder()
    latents = draw(1, 4, 8, 8)
    with torch.inference_mode():
        exact = model.decoder(latents)
        half = model.to(dtype)
        errors = [
            (result.float() - exact).abs().mean().item()
            for result in (banded(half.decoder, latents.to(dtype), 2_000), half.decoder(latents.to(dtype)))
        ]
    assert errors[0] <= 1.5 * errors[1]


def test_large_pictures_take_bands_by_themselves_and_training_does_not(monkeypatch):
    taken = []
    run = bands.run
    monkeypatch.setattr(bands, "BAND_ON_CPU", 1_000)
    monkeypatch.setattr(bands, "run", lambda *a: taken.append(1) or run(*a))
    model = autoencoder()
    latents = draw(1, 4, 8, 8)
    with torch.inference_mode():
        result = model.decode(latents)
    assert taken == [1]
    model.decoder.conv_in.weight.requires_grad_(True)
    trained = model.decode(latents)
    assert taken == [1] and trained.requires_grad and close(result, trained.detach())


def test_bands_are_diffusers_without_tiles():
    theirs = randomise(
        diffusers.AutoencoderKL(
            block_out_channels=(8, 16, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=8,
        )
    )
    config = diffusers_format.autoencoder_config(theirs.config)
    held = {name: HeldTensor(tensor) for name, tensor in theirs.state_dict().items()}
    tensors, _ = diffusers_format.AUTOENCODER.renamed(held)
    ours = fill(build(lambda: Autoencoder(config)), tensors, "here", torch.device("cpu"), torch.float32)
    latents = draw(1, 4, 9, 7)
    with torch.inference_mode():
        expected = theirs.decode(latents).sample
        assert close(banded(ours.decoder, ours.post_quant_conv(latents), 3_000), expected)
        pictures = draw(1, 3, 72, 56)
        expected = theirs.encode(pictures).latent_dist.mean
        moments = ours.quant_conv(banded(ours.encoder, pictures, 3_000))
        assert close(moments[:, :4], expected)
