"""The seam of attention: what a tap sees and changes, and that it leaves nothing behind."""

import threading

import pytest
import torch

from eyesel.errors import CheckpointError, SettingError
from eyesel.models.clip_text import ClipTextConfig
from eyesel.models.unet import SizeConditioning, UNet, UNetConfig
from eyesel.models.vit import ViT, ViTConfig
from eyesel.nn.attention import attention, causal_mask


class Recorder:
    """Observes every site and changes nothing."""

    def __init__(self, wanted=lambda site: True):
        self.wanted, self.seen = wanted, {}

    def wants(self, site):
        return self.wanted(site)

    def probs(self, site, p):
        self.seen[site] = p
        return p


class Swap:
    """Gives every picture the keys and values of the first."""

    def wants(self, site):
        return not site.cross

    def qkv(self, site, q, k, v):
        return q, k[:1].expand_as(k), v[:1].expand_as(v)


def vit():
    torch.manual_seed(0)
    model = ViT(ViTConfig((32, 32), (8, 8), dim=32, depth=3, heads=4, mlp_dim=64, classes=5)).eval()
    torch.nn.init.normal_(model.position_embeddings)
    return model.requires_grad_(False), (torch.randn(2, 3, 32, 40),)


def unet():
    torch.manual_seed(0)
    config = UNetConfig(
        channels=(16, 32),
        layers_per_block=1,
        transformer_depth=(1, 2),
        mid_transformer_depth=1,
        heads=(2, 4),
        context_dim=12,
        norm_groups=8,
    )
    return UNet(config).eval().requires_grad_(False), (
        torch.randn(2, 4, 8, 10),
        torch.tensor([5.0, 900.0]),
        torch.randn(2, 7, 12),
    )


@pytest.mark.parametrize("make", [vit, unet])
def test_an_observer_changes_nothing_and_sees_every_layer_once(make):
    model, inputs = make()
    plain = model(*inputs)
    tap = Recorder()
    assert (model(*inputs, tap=tap) - plain).abs().max() < 1e-5
    assert torch.equal(model(*inputs), plain)  # nothing to un-register
    layers = [(site.cross, site.layer) for site in tap.seen]
    assert len(set(layers)) == len(layers) and len({site.name for site in tap.seen}) == len(layers)
    for site, p in tap.seen.items():
        torch.testing.assert_close(p.sum(-1), torch.ones_like(p.sum(-1)))
        tokens = site.grid[0] * site.grid[1] + (make is vit)
        assert p.shape[2] == tokens and p.shape[3] == (7 if site.cross else tokens)


def test_layers_are_numbered_as_they_run():
    for make, count in ((vit, 3), (unet, 1 + 2 + 1 + 2 * 2 + 2 * 1)):
        model, inputs = make()
        tap = Recorder(lambda site: not site.cross)
        model(*inputs, tap=tap)
        assert [site.layer for site in tap.seen] == list(range(count))


def test_only_wanted_sites_are_seen():
    model, inputs = unet()
    tap = Recorder(lambda site: site.name.startswith("up_blocks.1") and site.cross)
    model(*inputs, tap=tap)
    assert {site.name for site in tap.seen} == {
        f"up_blocks.1.attentions.{i}.transformer_blocks.0.attn2" for i in range(2)
    }


@pytest.mark.parametrize("make", [vit, unet])
def test_an_editor_edits_and_leaves_the_model_as_it_was(make):
    model, inputs = make()
    plain = model(*inputs)
    edited = model(*inputs, tap=Swap())
    assert torch.allclose(edited[0], plain[0], atol=1e-5) and not torch.allclose(edited[1], plain[1], atol=1e-3)
    assert torch.equal(model(*inputs), plain)


def test_two_threads_with_different_taps_do_not_mix():
    model, inputs = unet()
    expected = {None: model(*inputs), "swap": model(*inputs, tap=Swap())}
    results = {}

    def work(key):
        for _ in range(3):
            results[key] = model(*inputs, tap=Swap() if key else None)

    threads = [threading.Thread(target=work, args=(key,)) for key in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for key, value in expected.items():
        assert torch.allclose(results[key], value, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (1, 8, 700, 40), (2, 2, 1500, 24)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_the_formula(shape, masked, dtype):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    mask = causal_mask(shape[2], q.device) if masked else None
    scores = q.double() @ k.double().transpose(-2, -1) / shape[3] ** 0.5
    if masked:
        scores = scores.masked_fill(~mask, float("-inf"))
    expected = scores.softmax(-1) @ v.double()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert (attention(q, k, v, mask).double() - expected).abs().max() < tolerance


def test_attention_of_other_lengths_and_layouts():
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 600, 3, 16, generator=generator).transpose(1, 2).bfloat16()
    k, v = (torch.randn(2, 77, 3, 16, generator=generator).transpose(1, 2).bfloat16() for _ in range(2))
    expected = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    assert (attention(q, k, v).float() - expected).abs().max() < 2e-2


def test_gradients_reach_bfloat16_attention():
    q, k, v = (torch.randn(1, 2, 600, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    attention(q, k, v).sum().backward()
    assert q.grad is not None and v.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (lambda: ViTConfig(dim=100, heads=3), ["100", "3"]),
        (lambda: ViTConfig(image_size=(30, 30)), ["30", "16"]),
        (lambda: ViTConfig(activation="magic"), ["magic", "gelu"]),
        (lambda: ClipTextConfig(dim=100, heads=3), ["100", "3"]),
        (lambda: UNetConfig(channels=(320, 640)), ["2 levels"]),
        (lambda: UNetConfig(channels=(320, 640, 1280, 1281)), ["1281"]),
        (lambda: UNetConfig(size_dim=256), ["added_dim"]),
    ],
)
def test_configs_that_cannot_be(config, words):
    with pytest.raises(CheckpointError) as error:
        config()
    assert all(word in str(error.value) for word in words)


def test_calls_that_cannot_be():
    model, (pixels,) = vit()
    with pytest.raises(SettingError, match="smaller than one patch"):
        model(pixels[..., :4, :])
    with pytest.raises(SettingError, match="no pooler"):
        model.pooled(model.features(pixels))
    with pytest.raises(SettingError, match="no classification head"):
        ViT(ViTConfig((32, 32), (8, 8), dim=32, depth=1, heads=4, mlp_dim=64)).head(torch.zeros(1, 32))
    model, (x, t, context) = unet()
    with pytest.raises(SettingError, match="only SDXL"):
        model(x, t, context, SizeConditioning(torch.zeros(2, 3), torch.zeros(2, 6)))
