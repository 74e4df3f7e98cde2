"""The page as a visitor uses it, in headless Chromium: mouse, keyboard, phone, night."""

import io
import re
from base64 import b64encode

import httpx
import numpy as np
import pytest
from PIL import Image

import eyesel
from eyesel.serve.options import Limits
from eyesel.weights.hub import ASSETS
from serving import FOX, serving, wait_for

pytestmark = pytest.mark.slow
EXAMPLES = ASSETS / "tiny" / "examples"
PATIENCE = 60_000  # milliseconds
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def paint(page, prompt=FOX):
    page.fill("#prompt textarea", prompt)
    page.click("#paint")
    page.wait_for_selector("text=Done in", timeout=PATIENCE)
    page.wait_for_selector("#stage img")
    return page


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def picture_at(page, selector):
    return Image.open(io.BytesIO(page.request.get(page.get_attribute(selector, "src")).body()))


def test_paints_and_asks_nobody_else(visit):
    page = paint(visit())
    picture = picture_at(page, "#stage img")
    assert picture.size == (32, 32) and "Seed" in picture.text["parameters"]
    style = page.evaluate("getComputedStyle(document.querySelector('#stage img')).imageRendering")
    assert style == "pixelated"
    assert page.locator("#film button").count() == 1
    address = page.url.rstrip("/")
    assert [each for each in visit.asked if not each.startswith((address, "data:", "blob:"))] == []
    assert visit.problems == []


def test_shows_the_picture_in_the_making_and_cancels(visit, served):
    page = visit()
    page.click("#settings button")
    page.fill("#size textarea, #size input", "128")
    page.get_by_label("number input for Steps").fill("150")
    page.keyboard.press("Tab")
    page.fill("#prompt textarea", FOX)
    page.click("#paint")
    page.wait_for_selector("#stage img", timeout=PATIENCE)
    page.wait_for_selector("text=/Step \\d+ of 150/")
    page.click("#cancel")
    page.wait_for_selector("text=Cancelled.", timeout=PATIENCE)
    assert served.get("/jobs").json()["jobs"][0]["state"] == "cancelled"


def test_a_closed_page_leaves_no_job_behind(visit, served):
    page = visit()
    page.click("#settings button")
    page.fill("#size textarea, #size input", "128")
    page.get_by_label("number input for Steps").fill("150")
    page.keyboard.press("Tab")
    page.fill("#prompt textarea", FOX)
    page.click("#paint")
    page.wait_for_selector("text=/Step \\d+ of 150/", timeout=PATIENCE)
    page.close()
    wait_for(lambda: served.get("/jobs").json()["jobs"][0]["state"] == "cancelled", 30)


def test_works_with_the_keyboard(visit):
    page = visit()
    page.focus("#prompt textarea")
    page.keyboard.type(FOX)
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "paint":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Done in", timeout=PATIENCE)
    page.get_by_role("tab", name="Generate").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.get_by_role("tab", name="See").get_attribute("aria-selected") == "true"


def test_settings_of_a_dropped_picture_paint_it_again(visit, tmp_path):
    painted = eyesel.StableDiffusion.load("tiny").generate(FOX, seed=11, steps=6, solver="euler")
    painted.save(tmp_path / "fox.png")
    page = visit()
    page.click("#settings button")
    page.locator("#source input[type=file]").set_input_files(tmp_path / "fox.png")
    page.wait_for_function("document.querySelector('#prompt textarea').value.includes('fox')")
    page.click("#paint")
    page.wait_for_selector("text=Done in", timeout=PATIENCE)
    assert np.array_equal(picture_at(page, "#stage img"), painted.image)


def test_a_mask_is_painted_with_the_mouse(visit, tmp_path):
    page = paint(visit())
    before = picture_at(page, "#stage img")
    page.click("text=Edit it")
    canvas = page.locator("#editor canvas").first
    canvas.wait_for(timeout=PATIENCE)
    page.wait_for_timeout(2000)  # until the picture is laid under the brush
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 50, y)
    page.mouse.down()
    page.mouse.move(x + 50, y, steps=5)
    page.mouse.up()
    page.wait_for_timeout(1000)
    page.fill("#edit-prompt textarea", "a large owl on a blue background")
    page.click("#repaint")
    page.wait_for_selector("#edit-download:not([disabled])", timeout=PATIENCE)
    with page.expect_download() as download:
        page.click("#edit-download")
    download.value.save_as(tmp_path / "edited.png")
    after = eyesel.open_image(tmp_path / "edited.png")
    changed = (np.asarray(after) != np.asarray(before.convert("RGB"))).any(-1)
    assert changed[12:20, 10:22].mean() > 0.5 and not changed[:8].any() and not changed[24:].any()
    assert eyesel.settings_from(tmp_path / "edited.png")["prompt"] == "a large owl on a blue background"


def test_sees_and_explains(visit):
    page = visit()
    tab(page, "See")
    page.locator("#see-picture input[type=file]").set_input_files(EXAMPLES / "fox.png")
    page.wait_for_selector("#labels dt", timeout=PATIENCE)
    assert page.locator("#labels dt").first.inner_text() == "fox"
    page.wait_for_selector("#overlay img", timeout=PATIENCE)
    first = page.get_attribute("#overlay img", "src")
    page.get_by_label("Method").click()
    page.get_by_role("option", name="Gradient rollout").click()
    page.wait_for_selector("text=What speaks for fox", timeout=PATIENCE)
    assert page.get_attribute("#overlay img", "src") != first


def test_restyles(visit):
    page = visit()
    tab(page, "Style")
    page.get_by_role("button", name="fox like rocket").click()
    page.wait_for_selector("#style img", timeout=PATIENCE)
    page.click("#restyle")
    page.wait_for_selector("#style-download:not([disabled])", timeout=PATIENCE)
    assert page.locator("#style-slider img").count() == 2


def test_errors_are_sentences(visit):
    page = visit()
    page.click("#paint")
    toast = page.get_by_test_id("toast-body")
    toast.wait_for(timeout=PATIENCE)
    assert "The prompt is empty: say what to paint." in toast.inner_text()
    assert "Traceback" not in page.content()


def test_fits_a_phone_and_the_night(visit, tmp_path):
    shades = []
    for scheme in ("light", "dark"):
        page = paint(visit(**PHONE, color_scheme=scheme))
        for name in ("Generate", "Edit", "Style", "See", "Compare"):
            tab(page, name)
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        page.screenshot(path=tmp_path / f"{scheme}.png")
        shades.append(np.asarray(Image.open(tmp_path / f"{scheme}.png").convert("L")).mean())
    assert shades[0] > 200 and shades[1] < 80


def test_a_server_with_a_key_asks_for_it(browser):
    with serving(web=True, api_keys=("sesame",), limits=Limits(rate=60)) as client:
        refused = httpx.get(client.live.url)
        assert refused.status_code == 401 and "Basic" in refused.headers["www-authenticate"]
        assert client.get("/", headers={"Authorization": "Basic " + b64encode(b":sesame").decode()}).status_code == 200
        context = browser.new_context(http_credentials={"username": "anybody", "password": "sesame"})
        page = context.new_page()
        page.goto(client.live.url)
        page.wait_for_selector("#prompt textarea", timeout=PATIENCE)
        paint(page)
        context.close()


def test_no_file_of_the_server_can_be_fetched(visit):
    page = paint(visit())
    source = page.get_attribute("#stage img", "src")
    path = re.search("file=(.*)", source)[1]
    for wrong in ("/etc/passwd", path + "/../../../../etc/passwd", __file__):
        assert page.request.get(f"{source.split('file=')[0]}file={wrong}").status in (403, 404)
