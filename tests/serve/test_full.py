"""A full queue is a 429 with a time to come again, in the shape of every dialect."""

import base64
import threading

import httpx
import pytest

from eyesel.serve.options import Limits
from serving import FOX, serving, wait_for

SHAPES = {  # of an error that says `message`
    "native": lambda message: {"error": {"message": message, "param": None, "code": "queue_full"}},
    "openai": lambda message: {
        "error": {"message": message, "type": "rate_limit_error", "param": None, "code": "queue_full"}
    },
    "huggingface": lambda message: {"error": message},
    "automatic1111": lambda message: {"error": "HTTPException", "detail": message, "body": "", "errors": message},
    "inference_v2": lambda message: {"error": message},
}


def requests(fox_png):
    """Those of every dialect: paintings, and what a classifier is asked."""
    picture = base64.b64encode(fox_png).decode()
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [picture]}
    paintings = [
        ("native", "/jobs", {"prompt": FOX}),
        ("openai", "/v1/images/generations", {"prompt": FOX}),
        ("huggingface", "/models/tiny", {"inputs": FOX}),
        ("automatic1111", "/sdapi/v1/txt2img", {"prompt": FOX}),
        ("automatic1111", "/sdapi/v1/img2img", {"prompt": FOX, "init_images": [picture]}),
    ]
    questions = [
        ("native", "/classify", {"image": picture}),
        ("native", "/embed", {"image": picture}),
        ("huggingface", "/", {"inputs": picture}),
        ("automatic1111", "/sdapi/v1/interrogate", {"image": picture}),
        ("inference_v2", "/v2/models/tiny/infer", {"inputs": [tensor]}),
    ]
    return paintings, questions


def refused(dialect, answer):
    assert answer.status_code == 429, (answer.request.url, answer.text)
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    told = answer.json()
    message = next(text for text in (told.get("detail"), told["error"], told["error"]) if text)
    message = message["message"] if isinstance(message, dict) else message
    assert told == SHAPES[dialect](message) and len(message) > 10


@pytest.fixture
def held():
    """A server whose one thread is held until the end of the test, and whose queues have a place for one each."""
    with serving(limits=Limits(queue=1, asks=1, share=1.0)) as client:
        go = threading.Event()
        client.live.engine._worker.call(lambda: go.wait(60))
        yield client
        go.set()


def test_a_full_queue_of_jobs(held, fox_png):
    assert held.post("/jobs", json={"prompt": FOX, "steps": 1}).status_code == 202
    for dialect, path, body in requests(fox_png)[0]:
        refused(dialect, held.post(path, json=body))


def test_a_full_queue_of_pictures(held, fox_png):
    answers = []
    first = threading.Thread(target=lambda: answers.append(httpx.post(f"{held.base_url}/classify", content=fox_png)))
    first.start()
    wait_for(lambda: held.live.engine.queues()["pictures"] == 1)
    for dialect, path, body in requests(fox_png)[1]:
        refused(dialect, held.post(path, json=body))


def test_who_comes_too_often_is_told_so_in_every_dialect(fox_png):
    with serving(limits=Limits(rate=1), warm_up=False) as client:
        assert client.get("/jobs").status_code == 200
        for dialect, path, body in (each for kind in requests(fox_png) for each in kind):
            answer = client.post(path, json=body)
            assert answer.status_code == 429 and 1 <= int(answer.headers["retry-after"]) <= 60
            told = answer.json()
            assert told.keys() == SHAPES[dialect]("").keys()
