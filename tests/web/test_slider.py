"""The page that `eyesel stylize --slider` writes: pulled with the mouse, the keyboard, and on a phone."""

import pytest
from PIL import Image

from eyesel.cli.sheets import slider


@pytest.fixture
def shown(browser, tmp_path):
    """Opens the page of two pictures of a size, in a window of another."""
    contexts = []

    def shown(size, window):
        before, after = (Image.new("RGB", size, colour) for colour in ("orange", "teal"))
        (tmp_path / "slider.html").write_text(slider(before, after), encoding="utf-8")
        contexts.append(browser.new_context(viewport=dict(zip(("width", "height"), window, strict=True))))
        page = contexts[-1].new_page()
        page.goto((tmp_path / "slider.html").as_uri())
        return page

    yield shown
    for context in contexts:
        context.close()


def line(page):
    """Where the line is, from 0 to 1, as it is seen."""
    box, hr = page.locator("figure").bounding_box(), page.locator("hr").bounding_box()
    return (hr["x"] + 1 - box["x"]) / box["width"]


def test_the_line_is_under_the_pointer(shown):
    page = shown((32, 32), (1000, 700))
    box = page.locator("figure").bounding_box()
    assert box["width"] == box["height"] == 512
    page.mouse.move(box["x"] + 256, box["y"] + 99)
    page.mouse.down()
    for share in (0.1, 0.45, 0.9):
        page.mouse.move(box["x"] + share * 512, box["y"] + 99, steps=3)
        assert line(page) == pytest.approx(share, abs=0.01)
    page.mouse.up()


def test_the_keyboard_moves_it(shown):
    page = shown((32, 32), (1000, 700))
    page.keyboard.press("Tab")
    for key, place in (("Home", 0), ("PageUp", 0.1), ("ArrowRight", 0.105), ("End", 1)):
        page.keyboard.press(key)
        assert line(page) == pytest.approx(place, abs=0.003)


@pytest.mark.parametrize("window", [(390, 844), (1000, 700)])
@pytest.mark.parametrize("size", [(600, 2000), (2000, 300), (48, 32)])
def test_all_of_it_is_seen(shown, size, window):
    page = shown(size, window)
    box = page.locator("figure").bounding_box()
    assert box["width"] <= window[0] and box["height"] <= window[1]
    assert box["width"] / box["height"] == pytest.approx(size[0] / size[1], rel=0.02)
