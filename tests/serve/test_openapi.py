"""The OpenAPI page: every route has a curl that works as it stands, and nothing that fits the schema breaks a route."""

import os
import shutil
import subprocess

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from eyesel.serve.options import Limits
from serving import FOX, serving, wait_for

METHODS = ("get", "post", "delete", "put", "patch")


def routes(client):
    document = client.get("/openapi.json").json()
    return [
        (path, method, told)
        for path, methods in document["paths"].items()
        for method, told in methods.items()
        if method in METHODS
    ]


def curl_of(told):
    (block,) = [part.strip() for part in told["description"].split("```sh")[1:]]
    return block.removesuffix("```").strip()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_every_curl_works(server, fox_png, tmp_path):
    (tmp_path / "fox.png").write_bytes(fox_png)
    done = server.post("/jobs", json={"prompt": FOX, "steps": 1}).json()["id"]
    wait_for(lambda: server.get(f"/jobs/{done}").json()["state"] == "done")
    found = routes(server)
    assert len(found) >= 12
    for path, _method, told in found:
        command = curl_of(told).replace("JOB", done)
        command = command.replace("curl ", "curl --silent --show-error --fail-with-body --max-time 30 ", 1)
        ran = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, env={**os.environ, "no_proxy": "*"}
        )
        assert ran.returncode == 0, (path, command, ran.stdout[:500], ran.stderr)
    assert {"fox.png", "looked-at.png"} <= {file.name for file in tmp_path.iterdir()}


def test_every_example_works(server):
    """What the page offers to try, where it sends JSON."""
    tried = []
    for path, _method, told in routes(server):
        sent = told.get("requestBody", {}).get("content", {}).get("application/json", {})
        if "example" in sent and "{" not in path:
            answer = server.post(path, json=sent["example"])
            assert answer.is_success, (path, answer.text)
            tried.append(path)
    assert {"/jobs", "/v1/images/generations", "/sdapi/v1/img2img", "/sdapi/v1/extra-batch-images"} <= set(tried)


def test_where_a_key_is_needed_curls_have_a_place_for_it(server):
    assert all("KEY" not in curl_of(told) for _, _, told in routes(server))
    with serving(api_keys=("secret",), warm_up=False) as client:
        client.headers["Authorization"] = "Bearer secret"
        document = client.get("/openapi.json").json()
        for _path, _method, told in routes(client):
            assert 'curl -H "Authorization: Bearer KEY" ' in curl_of(told) and str(client.base_url) in curl_of(told)
    assert document["components"]["securitySchemes"][next(iter(document["security"][0]))]["scheme"] == "bearer"


def test_nothing_that_fits_the_schema_is_a_5xx():
    with serving(limits=Limits(queue=1000, share=1.0, steps=4, painted=64 * 64, timeout=2)) as client:
        schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")

        for operation in schema.get_all_operations():
            check(operation.ok(), client)


def check(operation, client):
    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def ask(case):
        answer = case.call(base_url=str(client.base_url).rstrip("/"))
        assert answer.status_code < 500, (case.as_curl_command(), answer.text)

    ask()
