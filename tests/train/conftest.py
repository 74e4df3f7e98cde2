"""What the tests of training start from: pictures of four classes, and a small base with random weights."""

from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

from tiny_models import write_classifier

SHEET = Path(__file__).parents[1] / "data" / "compositions.png"


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return write_classifier(tmp_path_factory.mktemp("base"))


def write_pictures(folder: Path, names: str, each: int) -> Path:
    """`each` pictures of every class, a different brightness each."""
    sheet = Image.open(SHEET).convert("RGB")
    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for j in range(each):
            picture = sheet.crop((32 * i, 0, 32 * i + 32, 32))
            ImageEnhance.Brightness(picture).enhance(0.6 + 0.1 * j).save(folder / name / f"{j}.png")
    return folder


@pytest.fixture
def pictures(tmp_path):
    """pictures/a to pictures/d, eight of each."""
    return write_pictures(tmp_path / "pictures", "abcd", 8)
