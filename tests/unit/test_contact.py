"""Contact sheets: which picture stands where, how mistakes are marked, and how many pages there are."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from eyesel import contact
from eyesel.contact import COLUMNS, ROWS, SIDE, ContactSheet
from eyesel.errors import OutputError

WRONG = ImageColor.getrgb(contact._WRONG)


def filled_sheet(entries, labels=("fox, red fox", "owl", "crane", "crane")):
    """Pictures of one colour, told apart by it."""
    sheet = ContactSheet(labels)
    for i, (name, label, score) in enumerate(entries):
        sheet.add(name, label, score, Image.new("RGB", (SIDE // 3, SIDE // 3), (10 + i, 200, 50)))
    return sheet


def shown(page):
    """Numbers of the pictures on a page, as one reads them."""
    pixels = np.asarray(page).astype(int)
    places = {}
    for y, x in np.argwhere((pixels[..., 1] == 200) & (pixels[..., 2] == 50)):
        places.setdefault(pixels[y, x, 0] - 10, (y, x))
    return sorted(places, key=places.get)


ENTRIES = [
    ("owl/0.png", "owl", 0.9),
    ("owl/1.png", "fox, red fox", 0.5),
    ("red fox/2.png", "fox, red fox", 0.3),
    ("Fox/3.png", "owl", 0.8),
    ("holidays/4.png", "owl", 0.4),
    ("crane/5.png", "owl", 0.6),  # two labels are called that: no telling
]


@pytest.mark.parametrize(
    ("order", "expected"),
    [("name", [0, 1, 2, 3, 4, 5]), ("worst", [3, 1, 2, 4, 5, 0]), ("best", [0, 5, 4, 2, 1, 3])],
)
def test_order_and_marks(tmp_path, order, expected):
    with filled_sheet(ENTRIES) as sheet:
        assert sheet.save(tmp_path / "sheet.png", order) == [tmp_path / "sheet.png"]
    page = Image.open(tmp_path / "sheet.png").convert("RGB")
    assert shown(page) == expected
    step = SIDE + contact._MARGIN
    framed = [page.getpixel((contact._MARGIN + i * step - 3, contact._MARGIN + 20)) == WRONG for i in range(6)]
    assert [number for number, frame in zip(expected, framed, strict=True) if frame] == [
        number for number in expected if number in (1, 3)
    ]


def test_pages(tmp_path):
    count = COLUMNS * ROWS + 1
    with filled_sheet(
        [(f"{i}.png", "a label that is much longer than its picture is wide", i / 100) for i in range(count)]
    ) as sheet:
        pages = sheet.save(tmp_path / "s.png", "best")
        assert [page.name for page in pages] == ["s-1.png", "s-2.png"]
        with pytest.raises(OutputError, match=r"s-1\.png"):
            sheet.save(tmp_path / "s.png")
        assert sheet.save(tmp_path / "s.png", "best", force=True) == pages
    first, second = (Image.open(page).convert("RGB") for page in pages)
    assert shown(first) == list(range(count - 1, 0, -1)) and shown(second) == [0]
    assert second.width == SIDE + 2 * contact._MARGIN  # as wide as it needs to be
    ink = np.asarray(second.convert("L")) < 200
    assert not ink[:, : contact._MARGIN].any() and not ink[:, -contact._MARGIN :].any()  # long labels are cut
