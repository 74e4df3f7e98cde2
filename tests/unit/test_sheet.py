"""What a person sees: sheets with titles, colours and frames over pictures, and the files they are saved in."""

import numpy as np
import pytest
import torch
from PIL import Image

from eyesel.attention import Attention
from eyesel.errors import OutputError, SettingError
from eyesel.taps.overlay import FRAME, overlay
from eyesel.taps.sheet import MARGIN, TITLE, sheet

RED, GREEN = (200, 0, 0), (0, 160, 0)


def blocks(page, colour):
    """Left, top, right and bottom of what has the colour."""
    y, x = np.nonzero((np.asarray(page) == colour).all(-1))
    return x.min(), y.min(), x.max() + 1, y.max() + 1


def test_nothing_overlaps_on_a_sheet():
    wide, tall = Image.new("RGB", (60, 30), RED), Image.new("RGB", (300, 600), GREEN)
    page = sheet([[("wide", wide), ("a title that is wider than its picture", tall)], [("short", wide)]], side=100)
    left, top, right, bottom = blocks(page, GREEN)
    assert (right - left, bottom - top) == (50, 100)
    assert left == MARGIN + 100 + MARGIN and top == MARGIN + TITLE + MARGIN // 2
    assert blocks(page, RED)[:3] == (MARGIN, top, MARGIN + 100)
    letters = np.asarray(page.convert("L").crop((left, 0, page.width, top))) < 200
    assert letters[:, :50].any() and letters[:, 50:-MARGIN].any()  # the title is whole...
    assert not letters[:, -MARGIN:].any() and not letters[-1].any()  # ...and neither at the edge nor at the picture
    second = np.asarray(page)[top + 100 : top + 100 + MARGIN]
    assert (second == 255).all()


def test_small_pictures_stay_sharp_on_a_sheet():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 200, (4, 4, 3), dtype=np.uint8))
    page = sheet([[("", noise)]], side=40)
    left, top = MARGIN, MARGIN + TITLE + MARGIN // 2
    assert np.array_equal(np.asarray(page.crop((left, top, left + 40, top + 40)))[5::10, 5::10], np.asarray(noise))


def test_colours_are_shown_as_they_are():
    picture = Image.new("RGB", (300, 280), (90, 90, 90))
    colours = torch.zeros(7, 10, 3)
    colours[:, :5, 0] = 1
    shown = np.asarray(overlay(picture, colours, 1))
    assert (shown[:, :120] == (255, 0, 0)).all() and (shown[:, 180:] == 0).all()
    with pytest.raises(SettingError, match="heat map"):
        overlay(picture, torch.zeros(7, 10, 4))


def test_marked_patches_are_framed():
    picture, marked = Image.new("RGB", (400, 300)), np.zeros((3, 4), bool)
    marked[1, 2] = True
    shown = overlay(picture, np.eye(3, 4), 0.5, marked)
    assert blocks(shown, FRAME) == (200, 100, 300, 200)
    assert shown.getpixel((250, 150)) != FRAME


def test_the_colours_of_a_picture_fade_under_heat():
    red = Image.new("RGB", (300, 300), (220, 30, 30))
    spread = [np.ptp(np.asarray(overlay(red, np.zeros((2, 2)), alpha))[0, 0]) / (1 - alpha) for alpha in (0, 0.3, 0.6)]
    assert spread[0] == 190 and spread[1] == pytest.approx(190 * 0.55, abs=3) and spread[2] == pytest.approx(19, abs=4)


def attention(**change):
    torch.manual_seed(0)
    fields = {"maps": torch.zeros(1), "heat": torch.rand(4, 6), "image": Image.new("RGB", (60, 40), RED), **change}
    return Attention(**fields)


def test_one_map_is_one_picture():
    assert attention().overlay().size == (540, 360)
    assert attention(heat=torch.rand(4, 6, 3), method="pca").overlay().size == (540, 360)


@pytest.mark.parametrize(
    ("change", "columns", "rows", "width", "height"),
    [
        ({"heat": torch.rand(3, 4, 6), "layers": (0, 1, 2)}, 4, 1, 256, 171),
        ({"heat": torch.rand(12, 4, 6), "heads": tuple(range(12))}, 7, 2, 256, 171),
        ({"heat": torch.rand(3, 2, 4, 6), "layers": (0, 1, 2), "heads": (0, 1)}, 2, 3, 160, 107),
        ({"heat": torch.rand(2, 4, 6, 3), "layers": (0, 1), "method": "pca"}, 3, 1, 256, 171),
    ],
)
def test_many_maps_are_a_sheet(change, columns, rows, width, height):
    line = TITLE + MARGIN // 2 + MARGIN
    expected = (MARGIN + columns * (width + MARGIN), MARGIN + rows * (height + line))
    assert attention(**change).overlay().size == expected


def test_norms_show_their_outliers():
    marked = torch.zeros(4, 6, dtype=torch.bool)
    marked[0, 5] = True
    assert blocks(attention(method="norms", outliers=marked).overlay(), FRAME) == (450, 0, 540, 90)
    layers = attention(
        method="norms", heat=torch.rand(2, 4, 6), layers=(0, 1), outliers=torch.stack([marked & False, marked])
    )
    assert blocks(layers.overlay(), FRAME)[0] > 3 * MARGIN + 2 * 256  # beside the picture and the first layer


def test_maps_are_saved_as_pictures_and_as_arrays(tmp_path):
    answer = attention(heat=torch.rand(3, 4, 6), layers=(0, 1, 2))
    answer.save(tmp_path / "a.npy")
    assert np.array_equal(np.load(tmp_path / "a.npy"), answer.heat.numpy())
    answer.save(tmp_path / "a.png", opacity=0.3)
    with Image.open(tmp_path / "a.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(answer.overlay(0.3)))
    with pytest.raises(OutputError, match=r"\.npy"):
        answer.save(tmp_path / "a.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "a.png"]
