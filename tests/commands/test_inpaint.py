"""`eyesel inpaint` as a person runs it."""

import numpy as np
import pytest
from PIL import Image

from command_line import files, refused
from tiny_models import write_standard_painter


@pytest.fixture
def mask(tmp_path):
    image = Image.new("L", (60, 40))
    image.paste(255, (10, 5, 30, 25))
    image.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--only-masked", "--padding", 4, "--size", "64x64"],
        ["--fill", "noise", "--strength", 0.9],
        ["--fill", "fill", "--invert"],
        ["--expand", "8,0,0,16"],
    ],
    ids=str,
)
def test_inpaint_keeps_the_rest_bit_for_bit(run, painter, picture, mask, tmp_path, options):
    command = ["inpaint", picture, mask, "a fox", "-m", painter, "--steps", 2, "--seed", 7, "-o", "out.png"]
    assert run(*command, "--mask-blur", 2, *options)[0] == 0
    before, after = (np.asarray(Image.open(tmp_path / name)) for name in ("picture.png", "out.png"))
    if "--expand" in options:
        assert after.shape == (56, 68, 3)
        after = after[:40, 8:]
    kept = np.asarray(Image.open(mask)) == (255 if "--invert" in options else 0)
    far = np.ones_like(kept)  # from what is repainted: 5 pixels, the reach of the blur
    for y, x in np.argwhere(~kept):
        far[max(y - 5, 0) : y + 6, max(x - 5, 0) : x + 6] = False
    if "--expand" in options:
        far[-5:] = far[:, :5] = False
    assert far.sum() >= 100 and np.array_equal(before[far], after[far])
    assert not np.array_equal(before[~kept], after[~kept])


def test_inpaint_where_the_picture_is_transparent_or_new(run, painter, picture, tmp_path):
    options = ["a fox", "-m", painter, "--steps", 1, "--seed", 7, "-o", "out.png"]
    clear = Image.open(picture).convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 30, 40))
    clear.save(tmp_path / "clear.png")
    assert run("inpaint", "clear.png", "alpha", *options)[0] == 0
    assert run("inpaint", picture, "none", *options, "--expand", "0,0,20,0")[0] == 0
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (80, 40)


def test_inpaint_with_a_checkpoint_made_for_it(run, picture, mask, tmp_path):
    folder = write_standard_painter(tmp_path / "model", "sd1", in_channels=9)
    options = ["-m", folder, "--steps", 1, "--seed", 7]
    assert run("inpaint", picture, mask, "a fox", *options, "-o", "out.png")[0] == 0
    refused(run("generate", "a fox", *options, "-o", "x.png"), "inpainting checkpoint", "mask")
    refused(run("generate", "a fox", "--image", picture, *options, "-o", "x.png"), "inpainting checkpoint", "mask")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["picture.png", "other.png"], ["59x40", "60x40"]),
        (["picture.png", "black.png"], ["all black"]),
        (["picture.png", "missing.png"], ["missing.png"]),
        (["missing.png", "mask.png"], ["missing.png"]),
        (["picture.png", "clear.png"], ["transparent", "black and white"]),
        (["picture.png", "alpha"], ["no transparent part"]),
        (["picture.png", "none"], ["mask"]),
        (["picture.png", "none", "--expand", "0,0,0,0"], ["0,0,0,0"]),
        (["picture.png", "none", "--expand", "0,0,8"], ["0,0,8", "0,0,256,0"]),
        (["picture.png", "none", "--expand", "0,0,-8,0"], ["expand", "-8"]),
        (["picture.png", "none", "--expand", "9000,0,0,0"], ["9060", "8192"]),
        (["picture.png", "mask.png", "--fill", "water"], ["water", "nothing"]),
        (["picture.png", "mask.png", "--mask-blur", "-1"], ["mask_blur", "-1"]),
        (["picture.png", "mask.png", "--padding", "5"], ["padding", "only_masked"]),
        (["picture.png", "mask.png", "--strength", "0"], ["strength", "0"]),
        (["picture.png", "mask.png", "--strength", "1.5"], ["strength", "1.5"]),
        (["picture.png", "mask.png", "--strength", "0.01"], ["0.01", "0.5"]),
    ],
)
def test_inpaint_refuses(run, painter, picture, mask, tmp_path, arguments, words):
    Image.new("L", (60, 40)).save(tmp_path / "black.png")
    Image.new("L", (59, 40), 255).save(tmp_path / "other.png")
    Image.new("LA", (60, 40), (255, 9)).save(tmp_path / "clear.png")
    before = files(tmp_path)
    image, shape, *options = arguments
    options += ["-m", painter, "--steps", 2, "-o", "out.png"]
    refused(run("inpaint", image, shape, "a fox", *options), *words)
    assert files(tmp_path) == before
