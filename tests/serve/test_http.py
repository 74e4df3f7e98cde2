"""The native dialect over HTTP, and what guards it."""

import asyncio
import base64
import io
import json
import logging
import threading
import time

import httpx
import numpy as np
import pytest
from fastapi import Request
from PIL import Image

from eyesel.serve.logs import JsonLines
from eyesel.serve.options import Limits
from serving import FOX, png, serving, wait_for


def refused(response, status, param, code=None):
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    assert code is None or error["code"] == code
    assert len(error["message"]) > 10
    return error["message"]


def painted(client, **order):
    """A job from its order to its end."""
    job = client.post("/jobs", json={"prompt": FOX, "steps": 2, "seed": 7, **order}).json()
    wait_for(lambda: client.get(f"/jobs/{job['id']}").json()["state"] not in ("queued", "running"))
    return client.get(f"/jobs/{job['id']}").json()


def test_a_picture_comes_in_three_ways(server, fox_png, eye, fox):
    text = base64.b64encode(fox_png).decode()
    answers = [
        server.post("/classify?top_k=2", content=fox_png),
        server.post("/classify?top_k=2", content=fox_png, headers={"content-type": "application/json"}),
        server.post(
            "/classify?top_k=2", content=fox_png, headers={"content-type": "application/x-www-form-urlencoded"}
        ),
        server.post("/classify", json={"image": text, "top_k": 2}),
        server.post("/classify", json={"image": f"data:image/png;base64,{text}", "top_k": 2}),
        server.post("/classify", content=json.dumps({"image": text, "top_k": 2})),  # of no type
        server.post("/classify", files={"image": fox_png}, data={"top_k": "2"}),
        server.post("/classify", data={"image": text, "top_k": "2"}),
    ]
    expected = eye.classify(fox, top_k=2)
    for answer in answers:
        assert answer.status_code == 200, answer.text
        (found,) = answer.json()["predictions"]
        assert [p["label"] for p in found] == [p.label for p in expected]
        np.testing.assert_allclose([p["score"] for p in found], [p.score for p in expected], atol=1e-5)
    several = server.post("/classify", files=[("image[]", fox_png), ("image[]", fox_png)])
    assert len(several.json()["predictions"]) == 2


def test_embeddings_and_attention(server, fox_png, eye, fox):
    answer = server.post("/embed", files={"image": fox_png}, data={"pool": "mean", "layer": "2", "normalize": "true"})
    expected = eye.embed([fox], pool="mean", layer=2, normalize=True)
    assert answer.json()["shape"] == list(expected.shape)
    np.testing.assert_allclose(answer.json()["embeddings"], expected, atol=1e-5)
    look = server.post("/attend?method=gradcam&target=owl", content=fox_png).json()
    np.testing.assert_allclose(look["heat"], eye.attention(fox, "gradcam", target="owl").heat.numpy(), atol=1e-5)
    assert look["target"] == "owl"
    picture = server.post("/attend?layer=each", content=fox_png, headers={"accept": "image/png"})
    assert Image.open(io.BytesIO(picture.content)).width > 256


def test_overlays_of_large_pictures_are_made_in_a_moment(server):
    large = png(Image.linear_gradient("L").resize((6000, 3000)))
    for question, size in (("", (2048, 1024)), ("?layer=each&head=each", None)):
        answer = server.post(f"/attend{question}", content=large, headers={"accept": "image/png"})
        shown = Image.open(io.BytesIO(answer.content))
        assert answer.status_code == 200 and max(shown.size) <= 2048 and size in (None, shown.size)


def test_a_job_from_order_to_picture(server, easel):
    answer = server.post("/jobs", json={"prompt": FOX, "seed": 7, "steps": 3, "n": 2})
    job = answer.json()
    assert answer.status_code == 202 and answer.headers["location"] == f"/jobs/{job['id']}"
    assert job["state"] in ("queued", "running") and job["seeds"] == [7, 8]
    with server.stream("GET", f"/jobs/{job['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:")]
    assert events[-1]["state"] == "done" and events[-1]["progress"] == 1
    assert [event["step"] for event in events] == sorted(event["step"] for event in events)
    expected = easel.generate(FOX, seed=7, steps=3, n=2)
    for told, picture in zip(events[-1]["pictures"], expected, strict=True):
        file = server.get(told["url"])
        image = Image.open(io.BytesIO(file.content))
        assert file.headers["content-type"] == "image/png" and FOX in image.text["parameters"]
        assert np.array_equal(np.asarray(image), np.asarray(picture.image)) and told["seed"] == picture.seed
    assert job["id"] in [each["id"] for each in server.get("/jobs").json()["jobs"]]


def test_previews_come_with_events(server):
    job = server.post("/jobs", json={"prompt": FOX, "steps": 60}).json()
    with server.stream("GET", f"/jobs/{job['id']}/events") as stream:
        events = [json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:")]
    previews = [event["preview"] for event in events if "preview" in event]
    assert previews and Image.open(io.BytesIO(base64.b64decode(previews[0]))).size == (32, 32)


def test_forms_mean_what_json_means(server, fox_png, easel, fox):
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 32, 16))
    form = {"prompt": "a large owl", "steps": "3", "seed": "5", "mask_blur": "2", "size": "32x32", "invert": "true"}
    answer = server.post("/jobs", data=form, files={"image": fox_png, "mask": png(mask)})
    job = answer.json()
    assert answer.status_code == 202 and job["task"] == "inpaint", job
    wait_for(lambda: server.get(f"/jobs/{job['id']}").json()["state"] == "done")
    made = Image.open(io.BytesIO(server.get(f"/jobs/{job['id']}/pictures/0").content))
    expected = easel.inpaint(fox, mask, "a large owl", steps=3, seed=5, mask_blur=2, size=(32, 32), invert=True)
    assert np.array_equal(np.asarray(made), np.asarray(expected.image))


def test_cancelling(server):
    job = server.post("/jobs", json={"prompt": FOX, "steps": 150}).json()
    server.delete(f"/jobs/{job['id']}")
    wait_for(lambda: server.get(f"/jobs/{job['id']}").json()["state"] == "cancelled")
    assert server.get(f"/jobs/{job['id']}").json()["error"]["code"] == "cancelled"
    refused(server.get(f"/jobs/{job['id']}/pictures/0"), 404, "number")


def test_a_client_that_goes_away_cancels_its_job():
    with serving() as client:
        engine, seen = client.live.engine, []

        async def wait(request: Request):
            seen.append(engine.submit("generate", {"prompt": FOX, "steps": 150}))
            return {"pictures": len(await engine.until_disconnected(request, seen[-1]))}

        client.live.app.add_api_route("/paint-and-wait", wait, methods=["POST"])
        with pytest.raises(httpx.ReadTimeout):
            client.post("/paint-and-wait", json={}, timeout=0.15)
        wait_for(lambda: seen[0].state == "cancelled")
        assert seen[0].step < 150


def test_what_is_wrong_is_named(server, fox_png):
    big = io.BytesIO()
    Image.new("1", (10_000, 9_000)).save(big, "PNG")
    refused(server.post("/classify", content=b"garbage"), 400, "image", "invalid_image")
    refused(server.post("/classify", content=fox_png[:100]), 400, "image", "invalid_image")
    refused(server.post("/classify", content=b""), 422, "image")
    refused(server.post("/classify", json={"image": "%%%"}), 400, "image", "invalid_base64")
    refused(server.post("/classify", json={"image": 7}), 422, "image")
    refused(server.post("/classify", json={"image": "http://127.0.0.1/x.png"}), 400, "image", "urls_not_allowed")
    refused(server.post("/classify", content=big.getvalue()), 413, "image", "image_too_large")
    refused(server.post("/classify?top_k=0", content=fox_png), 400, "top_k")
    refused(server.post("/classify?top_k=many", content=fox_png), 400, "top_k")
    refused(server.post("/classify?tpo_k=3", content=fox_png), 422, "tpo_k")
    refused(server.post("/classify?model=huge", content=fox_png), 404, "model", "model_not_found")
    refused(server.post("/classify?function_to_apply=max", content=fox_png), 400, "function_to_apply")
    refused(server.post("/classify", files={"image": fox_png, "extra": fox_png}), 422, "extra")
    refused(server.post("/classify", files=[("image", fox_png)] * 65), 400, "image")
    refused(server.post("/embed?layer=99", content=fox_png), 400, "layer")
    refused(server.post("/embed?pool=max", content=fox_png), 400, "pool")
    refused(server.post("/attend?method=gaze", content=fox_png), 400, "method")
    refused(server.post("/attend?opacity=2", content=fox_png), 400, "opacity")
    refused(server.post("/jobs", json={"prompt": FOX, "steps": 1e9}), 400, "steps")
    refused(server.post("/jobs", json={"prompt": FOX, "sampler_name": "Euler"}), 400, "sampler_name")
    refused(server.post("/jobs", json={"prompt": FOX, "priority": 99}), 400, "priority")
    refused(server.post("/jobs", json={"task": "dance"}), 422, "task")
    refused(server.post("/jobs", json=[1]), 400, None, "invalid_json")
    refused(server.post("/jobs", content=b'{"prompt": NaN}'), 400, None, "invalid_json")
    refused(server.post("/jobs", content=b'{"prompt": "\\ud800"}'), 400, None, "invalid_json")
    refused(server.post("/jobs", content=b"[" * 100_000, headers={"content-type": "application/json"}), 400, None)
    refused(server.get("/jobs/unknown"), 404, "id", "job_not_found")
    refused(server.get("/nowhere"), 404, None)
    refused(server.put("/jobs"), 405, None)


def test_bodies_are_limited_with_and_without_a_length():
    with serving(limits=Limits(body=10_000), warm_up=False) as client:
        refused(client.post("/classify", content=b"x" * 10_001), 413, None, "body_too_large")
        refused(client.post("/classify", content=iter([b"x" * 4000] * 5)), 413, None, "body_too_large")
        refused(client.post("/jobs", files={"image": b"x" * 20_000}), 413, None, "body_too_large")
        chunked = (chunk for chunk in [b"--a\r\nContent-Disposition: form-data; name=x\r\n\r\n", *[b"y" * 4000] * 5])
        answer = client.post("/jobs", content=chunked, headers={"content-type": "multipart/form-data; boundary=a"})
        refused(answer, 413, None, "body_too_large")


def test_keys():
    with serving(api_keys=("first", "user:second"), warm_up=False) as client:
        assert client.get("/health").status_code == client.get("/ready").status_code == 200
        for path in ("/jobs", "/metrics", "/openapi.json", "/docs", "/nowhere"):
            answer = client.get(path)
            refused(answer, 401, None, "invalid_api_key")
            assert "Basic" in answer.headers["www-authenticate"]
        right = [
            {"headers": {"authorization": "Bearer first"}},
            {"headers": {"authorization": "bearer user:second"}},
            {"headers": {"x-api-key": "first"}},
            {"auth": ("anybody", "first")},
            {"auth": ("user", "second")},
        ]
        wrong = [
            {"headers": {"authorization": "Bearer firs"}},
            {"headers": {"authorization": "first"}},
            {"headers": {"authorization": "Basic !!!"}},
            {"headers": {"x-api-key": ""}},
            {"auth": ("first", "")},
            {"auth": ("nobody", "second")},
            {"headers": {"authorization": "Bearer second"}},
        ]
        assert [client.get("/jobs", **each).status_code for each in right] == [200] * len(right)
        assert [client.get("/jobs", **each).status_code for each in wrong] == [401] * len(wrong)


def test_who_comes_too_often_waits():
    with serving(limits=Limits(rate=5), warm_up=False) as client:
        answers = [client.get("/jobs") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 12
        assert client.get("/health").status_code == 200


def test_a_full_queue_is_429_with_a_time():
    with serving(limits=Limits(queue=2, batch=1), warm_up=False) as client:
        answers = [client.post("/jobs", json={"prompt": FOX, "steps": 100}) for _ in range(4)]
        assert answers[0].status_code == 202 and answers[-1].status_code == 429
        assert int(answers[-1].headers["retry-after"]) >= 1


def test_other_sites_may_not_ask_unless_told(server):
    asked = {"origin": "https://example.org", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in server.get("/health", headers=asked).headers
    with serving(cors=("https://example.org",), api_keys=("key",), warm_up=False) as client:
        assert client.options("/classify", headers=asked).headers["access-control-allow-origin"] == asked["origin"]
        other = client.options("/classify", headers={**asked, "origin": "https://elsewhere.org"})
        assert "access-control-allow-origin" not in other.headers


def test_metrics_say_what_happened(server, fox_png):
    painted(server)
    server.post("/classify", content=fox_png)
    text = server.get("/metrics").text
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    assert values['eyesel_requests_total{method="POST",route="/classify",status="200"}'] >= 1
    assert values['eyesel_jobs_total{state="done",task="generate"}'] >= 1
    assert values["eyesel_batch_size_count"] >= 1 and values["eyesel_steps_total"] >= 2
    assert values['eyesel_memory_bytes{of="process"}'] > values['eyesel_memory_bytes{of="models"}'] > 10**6
    assert values['eyesel_queue_length{queue="jobs"}'] == 0
    assert values['eyesel_request_seconds_count{route="/classify"}'] >= 1


def test_requests_have_ids_and_lines_without_prompts(fox_png):
    lines = []

    class Kept(logging.Handler):
        def emit(self, record):
            lines.append(json.loads(JsonLines().format(record)))

    handler, logger = Kept(), logging.getLogger("eyesel.serve")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        for told in (False, True):
            with serving(log_prompts=told, warm_up=False) as client:
                named = client.get("/health", headers={"x-request-id": "mine-1"})
                assert named.headers["x-request-id"] == "mine-1"
                assert client.get("/health", headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"
                client.post("/jobs", json={"prompt": "a secret", "steps": 1})
            assert any(line.get("request_id") == "mine-1" and line["path"] == "/health" for line in lines)
            assert ("a secret" in json.dumps(lines)) is told
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def test_a_job_that_cannot_be_stored_is_not_taken():
    with serving() as client:
        client.live.engine.store._base.execute("ALTER TABLE jobs RENAME TO lost")
        answer = client.post("/jobs", json={"prompt": FOX, "steps": 150})
        refused(answer, 503, None, "storage")
        assert answer.headers["retry-after"]
        wait_for(lambda: client.live.engine.jobs.unfinished == 0)
        client.live.engine.store._base.execute("ALTER TABLE lost RENAME TO jobs")
        assert painted(client)["state"] == "done"


def test_stopping_lets_what_runs_end_and_says_what_waits():
    with serving(limits=Limits(batch=1)) as client:
        first = client.post("/jobs", json={"prompt": FOX, "steps": 60}).json()["id"]
        second = client.post("/jobs", json={"prompt": FOX, "steps": 60}).json()["id"]
        wait_for(lambda: client.get(f"/jobs/{first}").json()["step"])
        jobs = client.live.engine.jobs
        kept = [jobs.get(first), jobs.get(second)]
    assert [job.state for job in kept] == ["done", "interrupted"]


def test_many_clients_at_once(server, fox_png):
    """More requests than the server has threads, all of which are answered."""
    answers = []

    def ask():
        with httpx.Client(base_url=str(server.base_url), timeout=60) as client:
            answers.extend(client.post("/classify", content=fox_png).status_code for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 80


def test_connections_that_break_off_harm_nobody(server, fox_png):
    async def run():
        host, port = server.base_url.host, server.base_url.port
        for data in (
            b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nabc",
            b"\x16\x03\x01garbage\r\n\r\n",
        ):
            _, writer = await asyncio.open_connection(host, port)
            writer.write(data)
            await writer.drain()
            writer.close()

    asyncio.run(run())
    time.sleep(0.1)
    assert server.post("/classify", content=fox_png).status_code == 200
