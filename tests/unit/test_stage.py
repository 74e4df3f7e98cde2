"""Models at work: numbers where half precision gives none, copies that go, textures that fit."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from eyesel import SettingError, StableDiffusion
from eyesel.nn.seamless import seamless
from eyesel.nn.stage import Stage
from tiny_models import write_painter

CPU = torch.device("cpu")


class Overflowing(nn.Module):
    """Numbers of 100,000 on the way, which float16 does not know, and of order 1 at the end."""

    def __init__(self, dtype):
        super().__init__()
        self.up, self.down = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        generator = torch.Generator().manual_seed(0)
        for layer, size in ((self.up, 5e4), (self.down, 1e-4)):
            layer.weight.data = (torch.rand(4, 4, generator=generator) * size).to(dtype)

    def forward(self, x):
        return self.down(self.up(x))


X = torch.full((2, 4), 10.0)


def use(model, dtype):
    return model(X.to(dtype)).float()


def test_what_overflows_in_half_precision_is_done_in_float32():
    model = Overflowing(torch.float16)
    stage = Stage(model, CPU)
    with torch.inference_mode():
        assert not use(model, torch.float16).isfinite().all()
        with pytest.warns(UserWarning, match="Overflowing overflowed in float16"):
            result = stage.run(use)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(stage.run(use), result)  # at once, and without another note
    expected = Overflowing(torch.float16).float()
    assert torch.allclose(result, use(expected, torch.float32)) and result.isfinite().all()
    assert model.up.weight.dtype == torch.float16


def test_a_copy_elsewhere_is_gone_afterwards():
    """Stands for an accelerator: "cpu:0" is not the device that weights on the CPU say that they are on."""
    model = nn.Linear(4, 4)
    stage = Stage(model, torch.device("cpu:0"))
    seen = []
    assert torch.equal(stage.run(lambda m, dtype: seen.append(m) or m(X)), model(X))
    stage.run(lambda m, dtype: seen.append(m) or m(X))
    assert seen[0] is seen[1] is not model
    stage.leave()
    stage.run(lambda m, dtype: seen.append(m) or m(X))
    assert seen[2] is not seen[0]
    here = Stage(model, CPU)
    here.run(lambda m, dtype: seen.append(m) or m(X))
    assert seen[3] is model


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    return StableDiffusion.load(write_painter(tmp_path_factory.mktemp("painter"), "sd1"), precision="float32")


def test_models_that_only_come_to_work_paint_the_same(painter):
    visiting = StableDiffusion(
        painter.unet,
        painter.autoencoder,
        painter.text_encoders,
        painter.tokenizers,
        painter.scheduler,
        device=torch.device("cpu:0"),
    )
    ours, theirs = (p.generate("a (fox:1.2)", steps=2, seed=7).image for p in (visiting, painter))
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_offload_needs_an_accelerator(painter):
    with pytest.raises(SettingError, match="offload is for accelerators"):
        StableDiffusion.load("tiny", device="cpu", offload=True)


@pytest.mark.parametrize("part", ["unet", "autoencoder"])
def test_no_black_pictures(tmp_path, part):
    """A painter in half precision one of whose networks overflows paints what it paints in float32."""
    folder = write_painter(tmp_path, "sd1")
    whole, half = (StableDiffusion.load(folder, precision=p) for p in ("float32", "float16"))
    half.autoencoder.half()
    for painter in (whole, half):  # a norm behind the convolution undoes its size, if there are numbers left
        network = painter.unet if part == "unet" else painter.autoencoder.decoder
        network.mid_block.resnets[0].conv1.weight.data *= 1e5
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="overflowed in float16"):
        ours = half.generate("a fox", steps=2, noise=noise, seed=0).image
    theirs = whole.generate("a fox", steps=2, noise=noise, seed=0).image
    difference = np.abs(np.asarray(ours).astype(int) - np.asarray(theirs))
    assert difference.mean() < 2 and np.asarray(ours).std() > 10


def rolled(x, down, right):
    return x.roll((down, right), (2, 3))


def test_textures_shift_with_their_latents(painter):
    """Rows that leave below come in above, in the decoder, the encoder and the UNet."""
    texture = painter.seamless()
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    with torch.inference_mode():
        moved = texture.autoencoder.decode(rolled(latents, 3, 5))
        assert (moved - rolled(texture.autoencoder.decode(latents), 24, 40)).abs().max() <= 1e-4
        plain = painter.autoencoder.decode(rolled(latents, 3, 5))
        assert (plain - rolled(painter.autoencoder.decode(latents), 24, 40)).abs().max() > 1e-2
        pixels = torch.randn(1, 3, 64, 64, generator=generator)
        moved = texture.autoencoder.encode(rolled(pixels, 24, 40))
        assert (moved - rolled(texture.autoencoder.encode(pixels), 3, 5)).abs().max() <= 1e-4
        t, context = torch.tensor([500.0]), torch.randn(1, 77, 24, generator=generator)
        moved = texture.unet(rolled(latents, 2, 4), t, context)
        assert (moved - rolled(texture.unet(latents, t, context), 2, 4)).abs().max() <= 1e-4
    assert texture.unet.conv_in.weight is painter.unet.conv_in.weight
    assert painter.unet.conv_in.padding_mode == "zeros" and seamless(painter.unet).conv_in.padding_mode == "circular"


def test_a_texture_is_painted(painter):
    ours, plain = (painter.generate("a fox", steps=2, seed=7, seamless=s) for s in (True, False))
    assert ours.settings["seamless"] is True
    assert not np.array_equal(np.asarray(ours.image), np.asarray(plain.image))
