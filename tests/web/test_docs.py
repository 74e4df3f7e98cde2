"""The page at `/docs` in a browser: it comes from the server itself, also with a key, and routes can be tried there."""

import pytest

from serving import serving


@pytest.mark.parametrize("keys", [(), ("secret",)])
def test_the_docs_ask_nobody_else(browser, keys):
    asked, problems = [], []
    with serving(api_keys=keys) as client:
        url = client.live.url
        credentials = {"http_credentials": {"username": "any", "password": "secret"}} if keys else {}
        page = browser.new_context(**credentials).new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{url}/docs")
        page.click("#operations-tag-AUTOMATIC1111")
        page.click("[id*=txt2img] .opblock-summary")
        assert f"{url}/sdapi/v1/txt2img" in page.inner_text(".opblock.is-open .opblock-description")
        page.click(".try-out__btn")
        page.click(".execute")
        page.wait_for_selector(".live-responses-table .response")
        assert page.inner_text(".live-responses-table .response .response-col_status").startswith("200")
        page.context.close()
    assert not problems and all(address.startswith((url, "data:", "blob:")) for address in asked)
