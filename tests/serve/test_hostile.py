"""What the internet sends in requests: bombs, lies, names and numbers that nobody would think of."""

import base64
import gzip
import io
import json
import socket
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from eyesel.serve import held as holding
from eyesel.serve.errors import ApiError
from eyesel.serve.held import held
from eyesel.serve.intake import MOST_PARTS, strict_json
from eyesel.serve.options import Limits
from serving import FOX, png, serving, wait_for

JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def server():
    with serving(warm_up=False, limits=Limits(pixels=1_000_000)) as client:
        yield client


def refused(answer, status, param, code=None):
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error
    assert code is None or error["code"] == code
    assert len(error["message"]) < 500


def test_bodies_are_not_unpacked(server):
    packed = gzip.compress(b"x" * 1_000_000)
    for coding in ("gzip", "br", "identity, gzip"):
        answer = server.post("/classify", content=packed, headers={"content-encoding": coding})
        refused(answer, 415, "Content-Encoding")
    answer = server.post("/v1/images/edits", content=packed, headers={"content-encoding": "gzip"})
    assert answer.status_code == 415 and answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "data",
    [
        b'{"prompt": "x", "prompt": "y"}',
        b'{"prompt": "x", "guidance": NaN}',
        b'{"prompt": "x", "guidance": -Infinity}',
        b'{"prompt": "x", "guidance": 1e999}',
        b'{"prompt": "x", "guidance": 1' + b"0" * 400 + b".5}",
        b'{"prompt": "x", "steps": ' + b"9" * 5000 + b"}",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\xed\xa0\x80"}',  # the same, as bytes that are no UTF-8
        '{"prompt": "x"}'.encode("utf-16"),
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"prompt": [' + b"[]," * MOST_PARTS + b"0]}",
        b'{"prompt": "x"',
        b"",
    ],
    ids=lambda data: data[:30].decode("latin-1"),
)
def test_json_that_is_none(server, data):
    refused(server.post("/jobs", content=data, headers=JSON), 400, None, "invalid_json")


def test_json_is_read_as_python_reads_it():
    data = {"a": [0.1, -1e-5, 1e300, 12345678901234567890, "e999", None, True], "b": {"c": "é"}}
    for text in (
        json.dumps(data),
        json.dumps(data, ensure_ascii=False).encode(),
        b"\xef\xbb\xbf" + json.dumps(data).encode(),
    ):
        assert strict_json(text) == data


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"steps": "[" * 50_000}, "steps"),
        ({"guidance": "NaN"}, "guidance"),
        ({"guidance": "Infinity"}, "guidance"),
        ({"size": "9" * 5000 + "x1"}, "size"),
        ({"size": "٣٢x٣٢"}, "size"),
    ],
)
def test_texts_of_forms_that_are_no_numbers(server, form, field):
    for path in ("/jobs", "/v1/images/generations"):
        refused(server.post(path, data={"prompt": FOX, **form}), 400, field)
    for size in ("0x0", "0x32", "32x-32", "32", "x"):
        refused(server.post("/v1/images/generations", data={"prompt": FOX, "size": size}), 400, "size")


def test_what_is_said_twice_is_not_guessed(server, fox_png):
    refused(server.post("/jobs", content=b"prompt=x&prompt=y", headers=FORM), 400, "prompt")
    refused(server.post("/classify?top_k=1&top_k=2", content=fox_png), 400, "top_k")
    layers = server.post("/embed?layer=1&layer=-1", content=fox_png).json()
    listed = server.post("/embed", json={"image": base64.b64encode(fox_png).decode(), "layer": [1, -1]}).json()
    np.testing.assert_allclose(layers["embeddings"], listed["embeddings"], atol=1e-5)
    text = base64.b64encode(fox_png).decode()
    for body in ({"inputs": text, "image": text}, {"image": text}):
        answer = server.post("/predict", json=body)
        assert (answer.status_code == 400 and "two ways" in answer.text) is ("inputs" in body)
    masks = [("inputs", fox_png), ("mask_image", fox_png), ("mask_image", fox_png)]
    assert "mask_image" in server.post("/predict?task=image-to-image", files=masks, data={"prompt": "x"}).text


def test_parameters_of_addresses_are_not_ignored(server):
    job = server.post("/jobs", json={"prompt": FOX, "steps": 1}).json()["id"]
    for path in ("/jobs?limit=1", f"/jobs/{job}?wait=1", f"/jobs/{job}/events?preview=1"):
        refused(server.get(path), 422, path.partition("?")[2].partition("=")[0], "unknown_parameter")
    refused(server.delete(f"/jobs/{job}?now=1"), 422, "now", "unknown_parameter")


def test_forms_of_many_parts(server):
    part = b"--a\r\nContent-Disposition: form-data; name=x%d\r\n\r\n1\r\n"
    head = {"content-type": "multipart/form-data; boundary=a"}
    refused(server.post("/classify", content=b"a=&" * 100_000, headers=FORM), 400, None, "invalid_form")
    refused(server.post("/classify", content=b"".join(part % i for i in range(1000)), headers=head), 400, None)
    refused(server.post("/classify", content=part[:-8] + b"x" * 1_000_000, headers=head), 400, None)
    refused(server.post("/classify", files=[("image", b"x")] * 150), 400, None, "invalid_form")


def text_bomb():
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "x" * 50_000_000, zip=True)
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def profile_bomb():
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "PNG", icc_profile=b"\0" * 50_000_000)
    return file.getvalue()


def icon_bomb():
    """An icon that says 16x16 and holds 1500x1500."""
    inside = png(Image.new("1", (1500, 1500)))
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inside), 22) + inside


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (text_bomb, 400),
        (profile_bomb, 400),
        (icon_bomb, 413),
        (lambda: png(Image.new("1", (1001, 1000))), 413),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", 400),
        (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400),
    ],
)
def test_pictures_that_are_bombs(server, data, status):
    answers = [server.post(path, content=data()) for path in ("/classify", "/attend", "/embed")]
    answers.append(server.post("/jobs", files={"image": data()}, data={"prompt": FOX}))
    for answer in answers:
        refused(answer, status, "image")


def test_pictures_that_requests_hold_are_bounded():
    """Here 32x32 pixels, each in a request of its own that waits while another is painted."""
    start = holding.holding()
    limits = Limits(held_pixels=start + 2100, queue=8, share=1.0, batch=1)
    with serving(warm_up=False, limits=limits) as client:
        order = {"prompt": FOX, "steps": "150", "strength": "1"}
        answers = [client.post("/jobs", data=order, files={"image": png(Image.new("RGB", (32, 32)))}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 429]
        assert answers[-1].headers["retry-after"] and answers[-1].json()["error"]["code"] == "queue_full"
        look = client.post("/attend", content=png(Image.new("RGB", (32, 32))))
        assert look.status_code == 429
        assert client.post("/classify", content=png(Image.new("RGB", (32, 32)))).status_code == 200  # is not held
        for answer in answers[:2]:
            client.delete(f"/jobs/{answer.json()['id']}")
        wait_for(lambda: client.post("/attend", content=png(Image.new("RGB", (32, 32)))).status_code == 200)
    wait_for(lambda: holding.holding() <= start)


def test_a_picture_counts_until_nobody_holds_it():
    before = holding.holding()
    image = held(10, before + 10, lambda: Image.new("L", (2, 5)))
    assert holding.holding() == before + 10
    with pytest.raises(ApiError) as full:
        held(1, before + 10, lambda: Image.new("L", (1, 1)))
    assert full.value.status == 429
    del image
    assert holding.holding() == before
    with pytest.raises(ZeroDivisionError):
        held(10, before + 10, lambda: 1 / 0)
    assert holding.holding() == before


def test_numbers_of_pictures_are_seen_before_they_are_fetched_or_decoded(server, fox_png):
    text = base64.b64encode(fox_png).decode()
    refused(server.post("/jobs", json={"image": text, "style": [text] * 65}), 400, "style")
    refused(server.post("/classify", json={"image": ["http://127.0.0.1/"] * 65}), 400, "image")
    assert "65" in server.post("/predict?task=image-classification", json={"inputs": [text] * 65}).text
    tensor = {"name": "image", "datatype": "BYTES", "shape": [65], "data": [text] * 65}
    assert "65" in server.post("/v2/models/tiny/infer", json={"inputs": [tensor]}).text


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/..%2f..%2fjobs.sqlite",
        "/jobs/%00",
        "/jobs/x/pictures/-1",
        "/jobs/x/pictures/..%2f0",
        "/v1/images/made/..%2f..%2fx-0.png",
        "/v1/images/made/x-0.png",
        "/v1/images/made/-.png",
        "/v1/models/..%2f..%2fx",
        "/v2/models/..%2f../ready",
        "/v2/models/tiny/versions/2/ready",
        "/%ff%fe",
        "//example.org/..%2f",
    ],
)
def test_paths_lead_nowhere_else(server, path):
    assert server.get(path).status_code == 404
    assert server.post("/models" + path, content=b"x").status_code == 404


def test_pictures_by_number(server):
    job = server.post("/jobs", json={"prompt": FOX, "steps": 1, "n": 2}).json()["id"]
    wait_for(lambda: server.get(f"/jobs/{job}").json()["state"] == "done")
    for number, status in (("0", 200), ("1", 200), ("2", 404), ("9" * 5000, 404), ("٠", 404), ("-1", 404), ("", 404)):
        assert server.get(f"/v1/images/made/{job}-{number}.webp").status_code == status, number
    server.live.engine.jobs.get(job).files[0].unlink()
    assert server.get(f"/v1/images/made/{job}-0.png").status_code == 404
    refused(server.get(f"/jobs/{job}/pictures/0"), 404, "number", "no_picture")


def test_labels_of_metrics_are_ours(server):
    for method in ("GET", "BREW", "X" * 30):
        server.request(method, f"/nowhere-{method}")
    text = server.get("/metrics").text
    assert "BREW" not in text and "nowhere" not in text and 'route="unknown"' in text
    metrics = server.live.engine.metrics
    metrics.answered("BREW", "/jobs", 405, 0.1)
    assert (
        metrics.registry.get_sample_value(
            "eyesel_requests_total", {"method": "other", "route": "/jobs", "status": "405"}
        )
        == 1
    )


def test_a_client_that_leaves_in_the_middle_of_its_request_is_no_failure_of_the_server(server):
    with socket.create_connection(("127.0.0.1", server.base_url.port)) as raw:
        raw.sendall(b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx")
    value = server.live.engine.metrics.registry.get_sample_value
    labels = {"method": "POST", "route": "/classify"}
    wait_for(lambda: value("eyesel_requests_total", {**labels, "status": "499"}) == 1)
    assert value("eyesel_requests_total", {**labels, "status": "500"}) is None
