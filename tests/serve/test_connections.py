"""Connections as the internet makes them: idle, slow, never reading, with no end, and too many."""

import socket
import time

import httpx
import pytest
from fastapi.responses import Response

from eyesel.serve import body as bodies
from eyesel.serve import connections
from eyesel.serve.connections import Connection
from eyesel.serve.options import Limits
from serving import serving, wait_for


@pytest.fixture
def impatient(monkeypatch):
    """A server that gives up after half a second."""
    monkeypatch.setattr(Connection, "patience", 0.5)
    with serving(warm_up=False) as client:
        yield client


def connected(client, buffer=None):
    opened = socket.socket()
    if buffer is not None:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    opened.settimeout(30)
    opened.connect(("127.0.0.1", client.base_url.port))
    return opened


def closed(opened):
    """What comes until the server closes the connection."""
    data = b""
    try:
        while chunk := opened.recv(2**16):
            data += chunk
    except ConnectionResetError:
        pass
    opened.close()
    return data


def of(client):
    """The server's side of its connections."""
    return [each for each in client.live.server.server_state.connections if each.transport is not None]


def test_answers_are_sent_at_once():
    with serving(warm_up=False) as client:
        client.get("/health")
        sockets = [each.transport.get_extra_info("socket") for each in of(client)]
        assert sockets and all(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in sockets)


def test_who_asks_nothing_is_not_kept(impatient):
    idle = [connected(impatient) for _ in range(50)]
    half = connected(impatient)
    half.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
    assert all(closed(each) == b"" for each in idle) and closed(half) == b""
    assert impatient.get("/health").status_code == 200


def test_a_head_that_comes_letter_by_letter_is_not_waited_for(impatient):
    slow = connected(impatient)
    with pytest.raises(OSError):
        for _ in range(600):  # a minute
            slow.send(b"x")
            time.sleep(0.1)
    slow.close()


def test_a_connection_is_kept_between_requests(impatient):
    impatient.get("/health")
    (before,) = of(impatient)
    time.sleep(1.2)  # longer than the patience with who owes a request
    assert impatient.get("/health").status_code == 200 and of(impatient) == [before]


def test_who_does_not_read_is_not_kept(impatient):
    impatient.live.app.add_api_route("/much", lambda: Response(b"x" * 30_000_000))
    deaf = connected(impatient, buffer=4096)
    deaf.sendall(b"GET /much HTTP/1.1\r\nHost: localhost\r\n\r\n")
    wait_for(lambda: any(each.transport.get_write_buffer_size() for each in of(impatient)))
    wait_for(lambda: not any(each.transport.get_write_buffer_size() for each in of(impatient)))
    assert len(closed(deaf)) < 30_000_000
    assert len(impatient.get("/much").content) == 30_000_000  # who reads gets it


def test_a_head_without_end_is_refused(impatient):
    for data in (b"GET /health HTTP/1.1\r\n" + b"x: " + b"y" * 60 + b"\r\n", b"z" * 100):
        endless = connected(impatient)
        endless.sendall(b"GET /health HTTP/1.1\r\nA: ")
        try:
            for _ in range(20_000):
                endless.sendall(data)
        except OSError:
            pass
        else:
            raise AssertionError("two megabytes of a head were taken")
        endless.close()
    assert impatient.get("/health").status_code == 200


def test_there_are_only_so_many_connections(monkeypatch):
    monkeypatch.setattr(connections, "room", lambda: 5)
    with serving(warm_up=False) as client:
        assert client.get("/health").status_code == 200
        others = [connected(client) for _ in range(8)]
        assert [closed(each) for each in others[-4:]] == [b""] * 4
        assert client.get("/health").status_code == 200  # whose connection was there before
        for each in others[:4]:
            each.close()
        wait_for(lambda: len(of(client)) == 1)
        assert httpx.get(client.base_url.join("/health")).status_code == 200


def test_a_body_that_does_not_come_is_told_so(monkeypatch):
    monkeypatch.setattr(bodies, "PATIENCE", 0.3)
    with serving(warm_up=False) as client:
        for path, said in (("/classify", b'"code":"too_slow"'), ("/v1/images/generations", b"invalid_request_error")):
            slow = connected(client)
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99"
            slow.sendall(f"{head}\r\n\r\n{{".encode())
            answer = slow.recv(2**16)
            while said not in answer and (more := slow.recv(2**16)):
                answer += more
            assert answer.startswith(b"HTTP/1.1 408 ") and said in answer
            slow.close()
        assert client.get("/health").status_code == 200


def test_all_bodies_together_are_limited():
    with serving(warm_up=False, limits=Limits(body=10_000, bodies=25_000)) as client:
        waiting = []
        for _ in range(2):
            opened = connected(client)
            opened.sendall(
                b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000\r\n\r\n" + b"x" * 9_900
            )
            waiting.append(opened)
        wait_for(lambda: client.post("/classify", content=b"x" * 9_000).status_code == 429)
        answer = client.post("/v1/images/edits", content=b"x" * 9_000)
        assert answer.status_code == 429 and answer.headers["retry-after"]
        assert answer.json()["error"]["type"] == "rate_limit_error"
        for opened in waiting:
            opened.close()
        wait_for(lambda: client.post("/classify", content=b"x" * 9_000).status_code == 400)
