"""What the tests of training start from: pictures of four classes, and a small base with random weights."""

import gc
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tiny_models import write_classifier, write_painter

SHEET = Path(__file__).parents[1] / "data" / "compositions.png"


@pytest.fixture(scope="session", autouse=True)
def _light():
    """Every run collects garbage: it need not go through all that transformers and diffusers consist of."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return write_classifier(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def painters(tmp_path_factory):
    root = tmp_path_factory.mktemp("painters")
    return {family: write_painter(root / family, family) for family in ("sd1", "sd2", "sdxl")}


@pytest.fixture(scope="session")
def captioned(tmp_path_factory):
    """Four pictures of two sizes, with captions."""
    folder = tmp_path_factory.mktemp("captioned")
    rng = np.random.default_rng(0)
    for i, size in enumerate([(64, 64), (64, 64), (80, 48), (80, 48)]):
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {['small', 'large'][i % 2]} fox, red")
    return folder


def write_pictures(folder: Path, names: str, each: int) -> Path:
    """`each` pictures of every class, a different brightness each."""
    sheet = Image.open(SHEET).convert("RGB")
    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for j in range(each):
            picture = sheet.crop((32 * i, 0, 32 * i + 32, 32))
            ImageEnhance.Brightness(picture).enhance(0.6 + 0.1 * j).save(folder / name / f"{j}.png")
    return folder


@pytest.fixture(scope="session")
def eight_of_each(tmp_path_factory):
    """a to d, eight pictures of each; not to be changed."""
    return write_pictures(tmp_path_factory.mktemp("pictures") / "pictures", "abcd", 8)


@pytest.fixture
def pictures(tmp_path, eight_of_each):
    """pictures/a to pictures/d, eight of each."""
    return Path(shutil.copytree(eight_of_each, tmp_path / "pictures"))
