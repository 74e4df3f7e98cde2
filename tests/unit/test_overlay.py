"""Attention taps: what is recorded, rollout against a naive formula, the overlay."""

import numpy as np
import pytest
import torch
from PIL import Image

from eyesel.errors import SettingError
from eyesel.nn.attention import Attention, Site
from eyesel.taps.maps import AttentionMaps
from eyesel.taps.overlay import colour_map, overlay
from eyesel.taps.rollout import attention_to_grid, fuse, rollout


def random_maps(layers: int = 3, batch: int = 2, heads: int = 4, tokens: int = 10) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(layers, batch, heads, tokens, tokens).mul(2).softmax(-1)


def naive_rollout(maps: np.ndarray, fusion: str, discard_ratio: float) -> np.ndarray:
    """The formula with loops: (layers, heads, N, N) -> (N, N)."""
    n = maps.shape[-1]
    joint = np.eye(n)
    for layer in maps:
        fused = getattr(layer, fusion)(axis=0)
        order = np.argsort(fused, axis=None)[: int(n * n * discard_ratio)]
        for position in order:
            i, j = divmod(int(position), n)
            if (i, j) != (0, 0):
                fused[i, j] = 0
        mixed = 0.5 * fused + 0.5 * np.eye(n)
        for i in range(n):
            mixed[i] /= mixed[i].sum()
        joint = mixed @ joint
    return joint


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("discard_ratio", [0.0, 0.5, 0.9])
def test_rollout_equals_the_formula(fusion, discard_ratio):
    maps = random_maps()
    maps[1, 0, :, 0, 0] = 1e-6  # the class token's look at itself stays, however weak
    joint = rollout(maps, fusion, discard_ratio)
    assert joint.shape == (2, 10, 10)
    for b in range(2):
        expected = naive_rollout(maps[:, b].double().numpy().copy(), fusion, discard_ratio)
        np.testing.assert_allclose(joint[b].numpy(), expected, atol=1e-6)
    torch.testing.assert_close(joint.sum(-1), torch.ones(2, 10))


def test_rollout_of_no_attention_elsewhere_is_the_identity():
    maps = torch.eye(5).expand(3, 1, 2, 5, 5)
    torch.testing.assert_close(rollout(maps)[0], torch.eye(5))


def test_discarding_keeps_the_class_token_and_the_strongest_links():
    maps = random_maps(1, 1)
    maps[0, 0, :, 0, 0] = 0
    maps[0, 0, :, 3, 7] = 5
    fused = fuse(maps, "mean", 0.99)[0, 0]
    assert fused.count_nonzero() == 1
    assert fused[3, 7] == 5
    maps[0, 0, :, 0, 0] = 1e-9
    assert fuse(maps, "mean", 0.99)[0, 0, 0, 0] == maps[0, 0, :, 0, 0].mean()
    assert torch.equal(fuse(maps), maps.mean(2))


def test_bad_settings():
    maps = random_maps()
    with pytest.raises(SettingError, match="'sum'"):
        rollout(maps, "sum")
    for ratio in (1.0, -0.1, float("nan")):
        with pytest.raises(SettingError, match=str(ratio)):
            rollout(maps, discard_ratio=ratio)
    with pytest.raises(SettingError, match="10 tokens"):
        attention_to_grid(maps[0, 0, 0, 0], (2, 3))
    with pytest.raises(SettingError, match="no attention"):
        AttentionMaps().stacked()


def test_attention_to_grid():
    row = torch.arange(8.0)
    assert torch.equal(attention_to_grid(row, (2, 3), prefix_tokens=2), torch.tensor([[2.0, 3, 4], [5, 6, 7]]))
    assert attention_to_grid(torch.zeros(4, 7), (3, 2)).shape == (4, 3, 2)


def test_maps_record_the_chosen_layers_and_change_nothing():
    torch.manual_seed(0)
    layers = [Attention(16, heads=4, name=f"layer.{i}", layer=i) for i in range(3)]
    x = torch.randn(2, 5, 16, requires_grad=True)

    def run(tap=None):
        y = x
        for layer in layers:
            y = y + layer(y, tap=tap)
        return y

    maps, last = AttentionMaps(), AttentionMaps(layers=[2])
    torch.testing.assert_close(run(maps), run(), atol=1e-5, rtol=0)
    assert maps.stacked().shape == (3, 2, 4, 5, 5)
    assert not maps.stacked().requires_grad
    torch.testing.assert_close(maps.stacked().sum(-1), torch.ones(3, 2, 4, 5))
    run(last)
    torch.testing.assert_close(last.stacked()[0], maps.stacked()[2], atol=1e-6, rtol=0)
    assert not maps.wants(Site("cross", 0, True, None))
    # the first layer's map is softmax(q k / sqrt(d)) of its own input
    q, k = (f(x).unflatten(-1, (4, 4)).transpose(1, 2) for f in (layers[0].to_q, layers[0].to_k))
    torch.testing.assert_close(maps.stacked()[0], (q @ k.mT / 2).softmax(-1), atol=1e-6, rtol=0)


def test_maps_are_copies():
    maps, p = AttentionMaps(), torch.ones(1, 1, 2, 2)
    maps.probs(Site("a", 0, False, None), p)
    p.zero_()
    assert maps.stacked().min() == 1


def test_maps_of_different_sizes_do_not_stack():
    maps = AttentionMaps()
    for layer, n in enumerate((4, 16)):
        maps.probs(Site(str(layer), layer, False, None), torch.zeros(1, 2, n, n))
    with pytest.raises(SettingError, match="different shapes"):
        maps.stacked()


def test_overlay_points_at_the_heat():
    heat = torch.zeros(14, 14)
    heat[3:5, 9:11] = 1  # right of the middle, near the top
    picture = Image.new("RGB", (300, 280), (90, 90, 90))
    shown = np.asarray(overlay(picture, heat)).astype(int)
    assert shown.shape == (280, 300, 3)
    brightness = shown.sum(-1)
    y, x = np.unravel_index(brightness.argmax(), brightness.shape)
    assert abs(y - 280 * 4 / 14) < 20
    assert abs(x - 300 * 10 / 14) < 20
    assert brightness[250, 20] < brightness.max() / 3
    assert np.array_equal(np.asarray(overlay(picture, heat, alpha=0)), np.asarray(picture))


def test_small_pictures_are_enlarged_without_smoothing():
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    shown = overlay(Image.fromarray(noise), np.ones((4, 4)), alpha=0)
    assert shown.size == (512, 384)
    assert np.array_equal(np.asarray(shown)[::16, ::16], noise)
    assert overlay(Image.new("L", (256, 8)), np.ones((2, 2))).size == (256, 8)
    assert overlay(Image.new("RGB", (200, 200)), np.ones((2, 2))).size == (600, 600)


def test_overlay_scales_any_heat():
    picture = Image.new("RGB", (300, 300))
    heat = np.random.default_rng(0).random((7, 7))
    assert np.array_equal(np.asarray(overlay(picture, heat)), np.asarray(overlay(picture, heat * 1e6 - 5)))
    half = torch.tensor(heat, dtype=torch.bfloat16, requires_grad=True)
    assert overlay(picture, half).size == picture.size
    dark = np.asarray(overlay(picture, np.full((3, 3), 0.7)))  # an even map points nowhere
    assert dark.max() <= 2
    one = np.zeros((20, 20))
    one[5, 5] = 1  # a single patch in 400, less than one per cent
    assert np.asarray(overlay(picture, one)).max() > 100


def test_overlay_refuses_nonsense():
    picture = Image.new("RGB", (300, 300))
    for heat in (np.zeros(5), np.zeros((0, 3)), np.full((2, 2), np.nan)):
        with pytest.raises(SettingError, match="heat map"):
            overlay(picture, heat)
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(SettingError, match="opacity"):
            overlay(picture, np.ones((2, 2)), alpha)


def test_lightness_of_the_colour_map_always_grows():
    lightness = colour_map(np.linspace(0, 1, 200)) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > 0).all()
