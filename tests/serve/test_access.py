"""Who is who, who may ask, and from where."""

import base64
import socket

import pytest
from starlette.datastructures import Headers

from eyesel.errors import SettingError
from eyesel.serve.access import client_of, foreign, given_keys
from eyesel.serve.options import Limits, ServerOptions
from serving import FOX, serving


def scope(address="127.0.0.1", **headers):
    return {
        "type": "http",
        "client": (address, 1),
        "headers": [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()],
    }


def basic(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        ("Bearer  key ", ["key"]),
        ("BEARER", [""]),
        (basic("user:key"), ["key", "user:key"]),
        (basic("key"), ["", "key"]),
        (basic("ключ:key"), ["key", "ключ:key"]),
        ("Basic é", []),  # no ASCII
        ("Basic a", []),  # no base64
        ("Basic /w==", []),  # no UTF-8
        ("Digest key", []),
        ("", []),
    ],
)
def test_keys_of_all_kinds_and_what_is_none(value, keys):
    assert given_keys(Headers(raw=[(b"authorization", value.encode("latin-1", "ignore"))])) == keys


@pytest.mark.parametrize("key", ["", " ", "key ", "clé", "a\nb"])
def test_a_key_that_nobody_can_send_or_anybody_is_refused(key):
    with pytest.raises(SettingError, match="API key"):
        ServerOptions(api_keys=("right", key))


@pytest.mark.parametrize(
    ("options", "private"),
    [
        ({}, True),
        ({"host": "::1"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"api_keys": ("key",)}, False),
        ({"insecure": True}, False),
    ],
)
def test_a_server_is_private_until_told_otherwise(options, private):
    assert ServerOptions(**options).private is private


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000", "a.localhost"]
)
def test_names_of_this_machine(host):
    assert foreign(Headers({"host": host}), "POST", ()) is None
    assert foreign(Headers({"host": host, "origin": f"http://{host}"}), "POST", ()) is None


@pytest.mark.parametrize(
    "host", ["example.org", "example.org:8000", "10.0.0.1", "[", "", "localhost.example.org", "::1"]
)
def test_other_names_are_those_of_web_sites_that_stand_for_this_machine(host):
    assert foreign(Headers({"host": host}), "GET", ()).code == "forbidden_host"


@pytest.mark.parametrize("origin", ["https://example.org", "null", "http://127.0.0.1:8001", "http://[", "file://"])
def test_pages_of_others_may_read_nothing_and_send_nothing(origin):
    headers = Headers({"host": "127.0.0.1:8000", "origin": origin})
    assert foreign(headers, "POST", ()).code == foreign(headers, "DELETE", ()).code == "forbidden_origin"
    assert foreign(headers, "GET", ()) is None  # which the browser does not show to the page
    assert foreign(headers, "POST", (origin,)) is foreign(headers, "POST", ("*",)) is None


def test_a_page_of_another_site_orders_nothing(fox_png):
    asked = {"origin": "https://example.org", "content-type": "text/plain"}  # which needs no leave from the server
    with serving(warm_up=False) as client:
        for path in ("/jobs", "/v1/images/generations", "/predict", "/sdapi/v1/interrupt", "/v2/models/tiny/infer"):
            answer = client.post(path, content=b'{"prompt": "x"}', headers=asked)
            assert answer.status_code == 403 and "example.org" in answer.text
        assert client.get("/jobs", headers={"host": "example.org"}).status_code == 403
        assert client.get("/health", headers={"host": "example.org"}).status_code == 200
        assert client.get("/jobs").json() == {"jobs": []}
    with serving(warm_up=False, insecure=True) as client:
        assert client.post("/classify", content=fox_png, headers={**asked, "host": "example.org"}).status_code == 200


def test_garbage_instead_of_a_key_is_no_key():
    with serving(warm_up=False, api_keys=("key",)) as client:
        for value in ("Basic é".encode(), b"Basic \xff\xfe", b"Bearer \xff", b"Basic", b"Basic ====", b"\x01"):
            with socket.create_connection(("127.0.0.1", client.base_url.port), 30) as raw:
                raw.sendall(b"GET /jobs HTTP/1.1\r\nHost: x\r\nAuthorization: " + value + b"\r\n\r\n")
                assert raw.recv(2**16)[9:12] in (b"401", b"400")


def test_who_is_who():
    assert client_of(scope()) != client_of(scope("127.0.0.2"))
    assert client_of(scope(authorization="Bearer a")) == client_of(scope())  # what nobody has checked
    one, other = scope("2001:db8::1"), scope("2001:db8::2:3")  # addresses of one machine, if it likes
    assert client_of(one) == client_of(other) != client_of(scope("2001:db8:0:1::1"))


def test_another_header_makes_nobody_another_client():
    """A client's share of the queue, and its rate, are its own, whatever it sends besides its key."""
    more = [{}, {"x-api-key": "made up"}, {"x-api-key": "another", "x-forwarded-for": "1.2.3.4"}]
    with serving(warm_up=False, api_keys=("key",), limits=Limits(queue=4, share=0.5, batch=1)) as client:
        client.headers["authorization"] = "Bearer key"
        answers = [
            client.post("/jobs", json={"prompt": FOX, "steps": 150}, headers=more[i % 3 if i % 3 < 2 else 1])
            for i in range(6)
        ]
        assert [answer.status_code for answer in answers[-2:]] == [429, 429]
        assert answers[-1].json()["error"]["code"] == "client_queue_full"
        assert len(client.get("/jobs", headers=more[1]).json()["jobs"]) == len(client.get("/jobs").json()["jobs"])


def test_rates_count_what_cannot_be_made_up():
    with serving(warm_up=False, limits=Limits(rate=5)) as client:
        found = [client.get("/jobs", headers={"authorization": f"Bearer {i}"}).status_code for i in range(7)]
        assert found == [200] * 5 + [429] * 2
    with serving(warm_up=False, api_keys=("key",), limits=Limits(rate=5)) as client:
        paths = ["/jobs", "/assets/x"] * 4  # of the page, whose parts do not count, but for who guesses
        guessed = [client.get(path, headers={"x-api-key": str(i)}).status_code for i, path in enumerate(paths)]
        assert guessed == [401] * 5 + [429] * 3
        assert client.get("/jobs", headers={"x-api-key": "key"}).status_code == 200
