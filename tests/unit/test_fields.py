"""Numbers of numpy are the numbers that they are, wherever a setting is taken."""

import numpy as np
import pytest
from PIL import Image

import eyesel
from eyesel.fields import plain
from eyesel.settings import Settings
from eyesel.stylize.settings import StyleSettings


def test_plain_numbers():
    assert plain((np.int64(3), [np.float32(0.5), "a"], None)) == (3, [0.5, "a"], None)
    assert (
        type(plain(np.int64(3))) is int and type(plain(np.bool_(True))) is bool and type(plain(np.array(2.0))) is float
    )
    array = np.arange(3)
    assert plain(array) is array


def test_settings_take_them_and_keep_pythons():
    given = Settings(steps=np.int64(7), guidance=np.float32(2.5), size=(np.int32(32), np.int64(64)))
    assert given == Settings(steps=7, guidance=2.5, size=(32, 64))
    assert type(given.steps) is int and type(given.guidance) is float and type(given.size[0]) is int
    assert StyleSettings(strength=np.float64(0.25), steps=np.uint8(9)) == StyleSettings(strength=0.25, steps=9)


@pytest.mark.parametrize(
    "bad", [{"steps": np.float32(2.5)}, {"steps": np.bool_(True)}, {"guidance": np.float32("nan")}]
)
def test_what_is_no_such_number_is_still_refused(bad):
    with pytest.raises(eyesel.SettingError, match=next(iter(bad))):
        Settings(**bad)


def test_the_painter_and_the_classifier_take_them():
    easel, eye = eyesel.StableDiffusion.load("tiny"), eyesel.ImageClassifier.load("tiny", image_size=np.int64(32))
    numbers = {"steps": np.int64(2), "guidance": np.float32(3), "seed": np.int64(1), "n": np.int64(1)}
    ours = easel.generate("a large fox", size=tuple(np.array([32, 32])), **numbers)[0]
    theirs = easel.generate("a large fox", steps=2, guidance=3, seed=1)
    assert np.array_equal(ours.image, theirs.image) and ours.settings == theirs.settings
    picture = Image.new("RGB", (32, 32), "red")
    assert len(eye.classify(picture, np.int64(3), np.int64(2))) == 3
    assert np.array_equal(eye.embed(picture, layer=np.int64(3)), eye.embed(picture, layer=3))
    assert eye.embed(picture, layer=np.array([3, -1])).shape == (2, eye.model.config.dim)
    ours = eye.attention(picture, "gradient-rollout", layer=np.int64(2), head=np.int64(1), target=np.int64(5))
    assert ours.heat.equal(eye.attention(picture, "gradient-rollout", layer=2, head=1, target=5).heat)
