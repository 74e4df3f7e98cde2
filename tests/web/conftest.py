"""A server with its page, and a browser that visits it."""

import shutil

import pytest

import eyesel
from serving import serving


@pytest.fixture(scope="session")
def served():
    """A client of a server with the page."""
    with serving(web=True) as client:
        yield client


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; it is gone after the module, as Playwright holds the event loop of the thread."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(served, browser):
    """Opens the page for a visitor; `visit.asked` are the addresses that it fetched, `visit.problems` its errors."""

    contexts = []

    def visit(url=served.live.url, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: visit.asked.append(request.url))
        page.on("pageerror", lambda error: visit.problems.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#prompt textarea", timeout=60_000)
        return page

    visit.asked, visit.problems = [], []
    yield visit
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def easel():
    return eyesel.StableDiffusion.load("tiny")
