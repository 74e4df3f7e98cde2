"""Masks, fitting and the canvas: what is shown to the network, and that the rest stays bit for bit."""

import numpy as np
import pytest
import torch
from PIL import Image

from eyesel import ImageError, SettingError
from eyesel.canvas import prepare
from eyesel.images import alpha_mask, around, blurred, filled, fitted, inverted, open_mask, window
from eyesel.settings import Settings

RANDOM = np.random.default_rng(0)


def picture(width=70, height=45):
    return Image.fromarray(RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8))


def mask(size=(70, 45), box=(20, 10, 50, 30)):
    result = Image.new("L", size)
    result.paste(255, box)
    return result


def array(image):
    return np.asarray(image).astype(int)


def test_blur_is_a_gaussian():
    point = Image.new("L", (41, 31))
    point.paste(255, (10, 5, 30, 25))
    soft = array(blurred(point, 4))
    x, y = np.mgrid[-10:11, -10:11]
    kernel = np.exp(-(x**2 + y**2) / 32)  # 2 * sigma^2
    kernel /= kernel.sum()
    padded = np.pad(array(point), 10, mode="edge")
    expected = sum(padded[i : i + 31, j : j + 41] * kernel[i, j] for i in range(21) for j in range(21))
    assert np.abs(soft - expected).max() <= 0.51
    assert blurred(point, 0) is point
    assert array(blurred(Image.new("L", (9, 9), 255), 20)).min() == 255  # nothing comes in over the edges


def test_blur_reaches_as_far_as_in_automatic1111():
    """Its kernel has 2 * int(2.5 * sigma + 0.5) + 1 pixels."""
    point = Image.new("L", (101, 1))
    point.paste(255, (0, 0, 50, 1))
    for sigma in (1, 4, 7):
        reach = np.flatnonzero(array(blurred(point, sigma))[0]).max() - 49
        assert reach <= int(2.5 * sigma + 0.5)


@pytest.mark.parametrize(
    ("box", "padding", "aspect", "expected"),
    [
        ((20, 10, 50, 30), 0, 1.5, (20, 10, 50, 30)),
        ((20, 10, 50, 30), 5, 4 / 3, (15, 5, 55, 35)),
        ((20, 10, 30, 30), 0, 1.0, (15, 10, 35, 30)),  # grows to both sides
        ((0, 10, 10, 30), 0, 1.0, (0, 10, 20, 30)),  # or to the one that has room
        ((60, 10, 70, 30), 0, 1.0, (50, 10, 70, 30)),
        ((0, 0, 70, 10), 0, 1.0, (0, 0, 70, 45)),  # as far as the picture goes
        ((20, 10, 50, 30), 100, 1.0, (0, 0, 70, 45)),
    ],
)
def test_the_part_around_a_mask(box, padding, aspect, expected):
    assert around(mask(box=box), padding, aspect) == expected


def test_masks_by_luminance_and_by_alpha():
    colours = Image.new("RGB", (3, 1))
    colours.putdata([(255, 255, 255), (255, 0, 0), (0, 0, 0)])
    assert list(open_mask(colours).getdata()) == [255, 76, 0]
    clear = Image.new("RGBA", (3, 1))
    clear.putdata([(9, 9, 9, 255), (9, 9, 9, 55), (9, 9, 9, 0)])
    assert list(alpha_mask(clear).getdata()) == [0, 200, 255]
    with pytest.raises(ImageError, match="transparent parts"):
        open_mask(clear)
    assert list(inverted(open_mask(colours)).getdata()) == [0, 179, 255]
    opaque = clear.copy()
    opaque.putalpha(255)
    assert open_mask(opaque).getextrema() == (9, 9)


def test_filling_takes_the_colours_around():
    ramp = np.zeros((32, 64, 3), np.uint8)
    ramp[:] = (np.arange(64) * 4)[None, :, None]
    spoiled = ramp.copy()
    spoiled[8:24, 24:40] = 255, 0, 255
    hole = mask((64, 32), (24, 8, 40, 24))
    result = array(filled(Image.fromarray(spoiled), hole))
    outside = np.asarray(hole) == 0
    assert (result[outside] == ramp[outside]).all()
    assert np.abs(result - ramp)[~outside].max() < 32 and np.abs(result - ramp)[~outside].mean() < 8
    assert array(filled(Image.new("RGB", (5, 7), "red"), Image.new("L", (5, 7), 255))).shape == (7, 5, 3)


def test_resize_modes():
    wide = Image.new("RGB", (80, 40), "red")
    wide.paste((0, 0, 255), (40, 0, 80, 40))
    assert array(fitted(wide, (40, 40)))[20, [2, 37]].tolist() == [[255, 0, 0], [0, 0, 255]]
    cropped = fitted(wide, (40, 40), "crop")
    assert (array(cropped) == array(wide.crop((20, 0, 60, 40)))).all()
    filled_up = array(fitted(wide, (40, 40), "fill"))
    small = array(wide.resize((40, 20), Image.Resampling.LANCZOS))
    assert (
        (filled_up[10:30] == small).all() and (filled_up[:10] == small[0]).all() and (filled_up[30:] == small[-1]).all()
    )
    with pytest.raises(SettingError, match="'squash'; choose one of stretch"):
        fitted(wide, (40, 40), "squash")
    with pytest.raises(ImageError, match="too narrow"):
        fitted(Image.new("L", (1, 10_000)), (512, 512), "crop")
    assert fitted(wide, wide.size) is wide


def test_a_window_goes_beyond_the_edges():
    image = picture(4, 3)
    wide = array(window(image, (-2, -1, 5, 4)))
    assert (wide == np.pad(array(image), ((1, 1), (2, 1), (0, 0)), mode="edge")).all()


def canvas(image=None, shape=None, **settings):
    return prepare(image or picture(), shape, Settings(**settings), native=(64, 64))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mask_blur": 0},
        {"only_masked": True},
        {"only_masked": True, "size": (128, 32), "padding": 3},
        {"invert": True},
        {"size": (64, 96)},
        {"size": (64, 96), "resize": "fill"},
        {"expand": (3, 0, 17, 5)},
        {"expand": (8, 8, 8, 8), "only_masked": True},
    ],
    ids=str,
)
def test_outside_the_mask_every_bit_stays(settings):
    made = canvas(shape=mask(), **{"mask_blur": 2, **settings})
    assert made.view.width % 8 == made.view.height % 8 == 0
    painted = picture(*made.view.size)
    result = array(made.pasted(painted))
    black, white = np.asarray(made.mask) == 0, np.asarray(made.mask) == 255
    assert black.any() and white.any()
    assert (result[black] == array(made.whole)[black]).all()
    if not settings.get("only_masked"):
        shown = array(painted)[: made.whole.height, : made.whole.width]
        assert (result[white] == shown[white]).all()


def test_the_canvas_of_a_whole_picture():
    image = picture()
    made = canvas(image)
    assert made.mask is None and made.view.size == (72, 48) and made.whole.size == (70, 45)
    assert (array(made.view)[:45, :70] == array(image)).all() and (array(made.view)[45:, :70] == array(image)[-1]).all()
    assert (array(made.pasted(made.view)) == array(image)).all()
    assert canvas(image, size=(40, 56)).view.size == (40, 56)


def test_a_larger_canvas_is_repainted_where_it_is_new():
    image = picture()
    made = canvas(image, expand=(8, 0, 16, 24), mask_blur=0)
    assert made.whole.size == (94, 69)
    new = np.full((69, 94), 255)
    new[:45, 8:78] = 0
    assert (np.asarray(made.mask) == new).all()
    assert (array(made.whole)[:45, 8:78] == array(image)).all()
    both = canvas(image, mask(), expand=(8, 0, 16, 24), mask_blur=0)
    new[10:30, 28:58] = 255
    assert (np.asarray(both.mask) == new).all()


def test_the_transparency_of_the_picture_as_mask():
    image = picture().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 10, 45))
    made = canvas(image, "alpha", mask_blur=0)
    assert (np.asarray(made.mask)[:, :10] == 255).all() and (np.asarray(made.mask)[:, 10:] == 0).all()
    with pytest.raises(ImageError, match="no transparent part"):
        canvas(picture(), "alpha")


@pytest.mark.parametrize(
    ("shape", "settings", "complaint"),
    [
        (mask((69, 45)), {}, "69x45 pixels and the picture 70x45"),
        (Image.new("L", (70, 45)), {}, "all black"),
        (Image.new("L", (70, 45), 120), {}, "dark grey"),
        (mask(box=(9, 9, 10, 10)), {}, "mask_blur is 4, which leaves next to nothing"),
        (Image.new("L", (70, 45), 255), {"invert": True}, "all black"),
        (None, {"expand": (0, 0, 0, 0)}, "must add pixels"),
    ],
)
def test_masks_that_are_none(shape, settings, complaint):
    with pytest.raises((ImageError, SettingError), match=complaint):
        canvas(picture(), shape, **settings)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"fil": "noise"}, "no setting 'fil': did you mean 'fill'"),
        ({"fill": "water"}, "'water'; choose one of original, fill, noise, nothing"),
        ({"mask_blur": -1}, "mask_blur is -1"),
        ({"mask_blur": 1.5}, "mask_blur is 1.5"),
        ({"expand": (1, 2, 3)}, "expand is"),
        ({"expand": [0, 0, -8, 0]}, "expand is"),
        ({"variation_strength": 1.5}, "variation_strength is 1.5"),
        ({"hires": 1.0}, "hires is 1; it must be above 1"),
        ({"hires": float("nan")}, "hires is nan"),
        ({"hires_upscaler": "magic"}, "'magic'; choose one of latent"),
        ({"strength": "half"}, "strength is 'half'"),
        ({"seamless": "yes"}, "seamless is 'yes'"),
        ({"guidance_interval": (1, 2, 3)}, "guidance_interval"),
    ],
)
def test_settings_are_checked(settings, complaint):
    with pytest.raises(SettingError, match=complaint):
        Settings.of(settings)


@pytest.mark.parametrize(
    ("settings", "image", "masked", "complaint"),
    [
        ({"strength": 0.5}, False, False, "strength is 0.5, which needs an image"),
        ({"expand": (8, 0, 0, 0)}, False, False, "needs an image"),
        ({"only_masked": True}, True, False, "only_masked is True, which needs a mask"),
        ({"invert": True, "expand": (8, 0, 0, 0)}, True, False, "invert is True, which needs a mask"),
        ({"padding": 3}, True, True, "which needs only_masked"),
        ({"hires_steps": 3}, False, False, "which needs hires"),
        ({"hires": 2.0}, True, False, "words alone"),
        ({"variation_seed": 3}, False, False, "needs a variation_strength"),
        ({}, False, True, "a mask and no image"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings, image, masked, complaint):
    with pytest.raises(SettingError, match=complaint):
        Settings(**settings).check_for(image, masked)


def test_a_picture_and_its_mask_keep_together():
    """Shown to the network at another size, the mask still lies on what it covered."""
    image = Image.new("RGB", (128, 64))
    image.paste((255, 255, 255), (64, 16, 96, 48))
    shape = mask((128, 64), (64, 16, 96, 48))
    made = canvas(image, shape, only_masked=True, padding=8, mask_blur=0)
    covered = torch.from_numpy(array(made.view)[..., 0] > 127)
    assert (covered == torch.from_numpy(np.asarray(made.view_shape) > 127)).float().mean() > 0.98


def test_thin_masks_survive_every_size():
    """A line of two pixels on a large picture, shown small."""
    line = mask((256, 256), (127, 0, 129, 256))
    for settings in ({"only_masked": True, "padding": 64}, {"size": (64, 64)}, {"size": (64, 32), "resize": "crop"}):
        made = prepare(picture(256, 256), line, Settings(mask_blur=0, **settings), native=(64, 64))
        assert (np.asarray(made.view_shape).max(0) > 0).sum() in (1, 2), settings
        assert set(np.unique(np.asarray(made.view_shape))) == {0, 255}


def test_inverting_is_about_the_mask_and_not_about_what_is_added():
    made = canvas(picture(), mask(), expand=(8, 0, 0, 0), invert=True, mask_blur=0)
    shape = np.asarray(made.shape)
    assert (shape[:, :8] == 255).all() and (shape[10:30, 28:58] == 0).all() and shape[0, 9] == 255


@pytest.mark.parametrize("settings", [{"size": (10**6, 10**6)}, {"size": (64, 9000)}, {"expand": (9000, 0, 0, 0)}])
def test_what_is_too_large_is_refused_before_it_grows(settings):
    with pytest.raises(SettingError, match="between 1 and 8192"):
        canvas(picture(), mask(), **settings)
