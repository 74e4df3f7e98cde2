"""Addresses in requests: what is public is fetched, what is not is not, whatever it is called."""

import contextlib
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from eyesel.serve import fetch as fetching
from eyesel.serve.errors import ApiError
from eyesel.serve.fetch import fetch, is_public
from serving import serving


class Pages(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.path)
        status, target = {
            "/picture": (200, None),
            "/chain": (302, "/picture"),
            "/loop": (302, "/loop"),
            "/inside": (302, "http://169.254.169.254/latest/meta-data"),
            "/file": (301, "file:///etc/passwd"),
        }.get(self.path, (404, None))
        self.send_response(status)
        if target:
            self.send_header("Location", target)
        self.end_headers()
        self.wfile.write(b"x" * 1000)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def pages():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def at_home(address):
    """As if this machine were a public one."""
    return address == "127.0.0.1"


def refusal(url, **more):
    with pytest.raises(ApiError) as caught:
        fetch(url, 10_000, **more)
    assert caught.value.status == 400 and caught.value.param == "image"
    return caught.value.message


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_that_are(address):
    assert is_public(address)


def test_what_is_there_is_fetched_and_redirects_are_followed(pages):
    assert fetch(f"{pages}/picture", 1000, allowed=at_home) == b"x" * 1000
    assert fetch(f"{pages}/chain", 1000, allowed=at_home) == b"x" * 1000


def test_what_is_not_public_is_never_connected_to(pages):
    Pages.asked.clear()
    port = pages.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433", "[::ffff:127.0.0.1]", "0"):
        assert "public" in refusal(f"http://{host}:{port}/picture")
    assert Pages.asked == []


def test_redirects_lead_nowhere_else(pages):
    assert "public" in refusal(f"{pages}/inside", allowed=at_home)
    assert "http or https" in refusal(f"{pages}/file", allowed=at_home)
    assert "more than 3" in refusal(f"{pages}/loop", allowed=at_home)


def test_the_address_that_was_checked_is_the_one_that_is_asked(pages, monkeypatch):
    """A name that is public when it is checked and private a moment later."""
    answers = iter(["127.0.0.1", "10.0.0.1"])
    real = socket.getaddrinfo

    def rebinding(host, port, *rest, **more):
        return real(next(answers) if host == "rebinding.test" else host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    port = pages.rpartition(":")[2]
    assert fetch(f"http://rebinding.test:{port}/picture", 1000, allowed=at_home) == b"x" * 1000
    assert next(answers) == "10.0.0.1"  # nobody looked it up a second time


@pytest.mark.parametrize(
    "url", ["ftp://example.org/x", "http://", "https://user:password@example.org/x", "http://[::1"]
)
def test_addresses_that_are_none(url):
    refusal(url)


def test_sizes_times_and_other_answers(pages, monkeypatch):
    with pytest.raises(ApiError, match="more than 999 bytes"):
        fetch(f"{pages}/picture", 999, allowed=at_home)
    assert "404" in refusal(f"{pages}/nothing", allowed=at_home)
    monkeypatch.setattr(fetching, "SECONDS", 0)
    assert "fetched" in refusal(f"{pages}/picture", allowed=at_home)


@pytest.mark.parametrize("begins", [b"HTTP/1.1 200 OK\r\nA: ", b"HTTP/1.1 200 OK\r\n\r\n", b""])
def test_a_page_that_comes_letter_by_letter_ends_with_its_time(monkeypatch, begins):
    monkeypatch.setattr(fetching, "SECONDS", 0.5)
    listening = socket.create_server(("127.0.0.1", 0))
    sent = []

    def drip():
        connection, _ = listening.accept()
        with contextlib.suppress(OSError):
            connection.sendall(begins)
            for _ in range(600):  # a minute
                connection.sendall(b"x")
                sent.append(1)
                time.sleep(0.1)

    thread = threading.Thread(target=drip)
    thread.start()
    message = refusal(f"http://127.0.0.1:{listening.getsockname()[1]}/", allowed=at_home)
    thread.join()
    listening.close()
    assert "TimeoutError" in message and 0 < len(sent) < 600


def test_the_other_side_has_to_prove_its_name(pages):
    port = pages.rpartition(":")[2]
    assert ssl.SSLError.__name__ in refusal(f"https://localhost:{port}/picture", allowed=lambda _: True)


def test_a_server_that_may_fetch(pages):
    with serving(allow_urls=True, warm_up=False) as client:
        answer = client.post("/classify", json={"image": f"{pages}/picture"})
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "url_not_fetched"
