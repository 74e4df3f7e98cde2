"""Outliers, principal components, gradients and faithfulness, against formulas that are written out here."""

import numpy as np
import pytest
import torch

from eyesel.errors import SettingError
from eyesel.nn.attention import Attention, Site
from eyesel.taps.faithfulness import area, curve
from eyesel.taps.gradients import TracedMaps, TracedTokens
from eyesel.taps.outliers import find_outliers, without_outliers
from eyesel.taps.pca import pca_colours


def test_outliers_are_long_beside_the_median():
    norms = torch.ones(2, 3, 4, 5) + torch.linspace(0, 0.5, 20).reshape(4, 5)
    norms[1, 2, 3, 0] = 4
    assert find_outliers(norms, 3).nonzero().tolist() == [[1, 2, 3, 0]]
    assert torch.equal(find_outliers(norms * 7, 3), find_outliers(norms, 3))
    assert find_outliers(norms, 4).sum() == 0


@pytest.mark.parametrize("ratio", [1.0, 0.0, float("nan")])
def test_a_ratio_below_the_median(ratio):
    with pytest.raises(SettingError, match="median"):
        find_outliers(torch.ones(2, 2), ratio)


def test_outliers_become_the_mean_of_what_is_known_around_them():
    heat, outliers = torch.arange(24.0).reshape(4, 6), torch.zeros(4, 6, dtype=torch.bool)
    outliers[0, 0] = outliers[2, 3] = outliers[2, 4] = True
    filled = without_outliers(heat.masked_fill(outliers, torch.nan), outliers)
    assert filled[0, 0] == (1 + 6 + 7) / 3  # in a corner there are three neighbours
    assert filled[2, 3] == pytest.approx((8 + 9 + 10 + 14 + 20 + 21 + 22) / 7)  # its right neighbour is not known
    assert torch.equal(filled[~outliers], heat[~outliers])


def test_what_is_surrounded_is_filled_from_the_outside():
    heat, outliers = torch.full((2, 3, 5, 5), 2.0), torch.zeros(2, 1, 5, 5, dtype=torch.bool)
    outliers[:, :, 0:3, 0:3] = True
    heat[0, :, 0:3, 0:3] = 100
    torch.testing.assert_close(without_outliers(heat, outliers), torch.full((2, 3, 5, 5), 2.0))


def test_components_are_those_of_the_singular_value_decomposition():
    generator = np.random.default_rng(0)
    pictures = [generator.normal(size=(n, 12)) * np.linspace(3, 0.5, 12) + 5 for n in (40, 60)]
    pictures[0][7] *= 50  # an outlier
    left_out = [np.arange(40) == 7, np.zeros(60, bool)]
    counted = np.concatenate(pictures)[~np.concatenate(left_out)]
    _, _, components = np.linalg.svd(counted - counted.mean(0))
    scores = (np.concatenate(pictures) - counted.mean(0)) @ components[:3].T
    expected = np.empty_like(scores)
    for i, component in enumerate(components[:3]):
        sign = np.sign(component[np.abs(component).argmax()])
        low, high = np.percentile(sign * scores[~np.concatenate(left_out), i], (1, 99))
        expected[:, i] = np.clip((sign * scores[:, i] - low) / (high - low), 0, 1)
    colours = pca_colours([torch.tensor(p) for p in pictures], [torch.tensor(m) for m in left_out])
    assert [c.shape for c in colours] == [(40, 3), (60, 3)] and colours[0].dtype == torch.float32
    np.testing.assert_allclose(torch.cat(colours).numpy(), expected, atol=1e-4)


def test_features_without_three_components():
    assert torch.equal(pca_colours([torch.ones(5, 4)])[0], torch.zeros(5, 3))  # all alike
    with pytest.raises(SettingError, match="of 2 numbers"):
        pca_colours([torch.zeros(5, 2)])


def traced(kind, x, layers):
    torch.manual_seed(0)
    network = [Attention(16, heads=4, name=f"layer.{i}", layer=i).requires_grad_(False) for i in range(3)]
    tap = kind(layers)
    for layer in network:
        x = x + layer(x, tap=tap)
    return tap, x


@pytest.mark.parametrize("kind", [TracedMaps, TracedTokens])
def test_gradients_say_what_a_small_step_does(kind):
    """Against a difference quotient: one value of layer 1 is nudged, and the score moves by its gradient."""
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))

    class Nudged(kind):
        step = 0.0

        def keep(self, layer, kept):
            if layer == 1:
                kept = kept.clone()
                kept[1, 2, 3] += self.step  # of maps a row, of tokens one number
            return kept

    tap, out = traced(kind, x, [1, 2])
    values, gradients = tap.with_gradients(out.square().sum())
    assert values.shape == gradients.shape == ((2, 2, 4, 5, 5) if kind is TracedMaps else (2, 2, 5, 16))
    scores = []
    for step in (1e-2, -1e-2):
        Nudged.step = step
        with torch.no_grad():
            scores.append(traced(Nudged, x, [1, 2])[1].square().sum())
    assert gradients[0, 1, 2, 3].sum() == pytest.approx((scores[0] - scores[1]).item() / 2e-2, rel=2e-2)


def test_a_tap_that_saw_nothing():
    tap, out = traced(TracedMaps, torch.ones(1, 5, 16), [7])
    with pytest.raises(SettingError, match="nothing was traced"):
        tap.with_gradients(out.sum())
    assert not tap.wants(Site("cross", 7, True, None))


WEIGHTS = torch.tensor([[4.0, 1, 0], [2, 8, 16]])


def score(pixels):
    """The sum over patches of 2 x 2 pixels of their weight, if they are white."""
    return (pixels[:, 0, :4:2, :6:2] * WEIGHTS).sum((1, 2))


@pytest.mark.parametrize("insertion", [False, True])
def test_curves_take_the_hottest_patches_first(insertion):
    white, black = torch.ones(2, 3, 5, 7), torch.zeros(1)  # a row and a column of pixels are left over
    heat = torch.stack([WEIGHTS, -WEIGHTS])  # the best order, and the worst
    scores = curve(score, white, black, heat, steps=6, insertion=insertion)
    gone = [[0, 16, 24, 28, 30, 31, 31], [0, 0, 1, 3, 7, 15, 31]]
    expected = torch.tensor(gone if insertion else [[31 - g for g in way] for way in gone]).float().T
    assert torch.equal(scores, expected)
    coarse = curve(score, white, black, heat, steps=3, insertion=insertion)
    assert torch.equal(coarse, expected[::2])
    torch.testing.assert_close(area(scores), torch.trapezoid(expected, dim=0) / 6)


def test_the_last_picture_is_blank():
    pixels, seen = torch.rand(1, 3, 5, 7), []
    curve(lambda x: seen.append(x) or x.mean((1, 2, 3)), pixels, torch.tensor(0.5), WEIGHTS[None], steps=2)
    assert torch.equal(seen[0], pixels) and (seen[-1] == 0.5).all() and len(seen) == 3


@pytest.mark.parametrize("steps", [0, 7])
def test_steps_that_are_not_there(steps):
    with pytest.raises(SettingError, match="2 x 3"):
        curve(score, torch.ones(1, 3, 4, 6), torch.zeros(1), WEIGHTS[None], steps)
