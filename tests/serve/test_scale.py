"""What stands before replicas, how they are chosen and how many they are, and the files that deploy them."""

import asyncio
import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ray.serve.config import AutoscalingConfig, AutoscalingContext
from ray.serve.schema import ServeDeploySchema

from eyesel.errors import SettingError
from eyesel.scale import app, proxy
from eyesel.scale.policy import JOBS, by_work
from eyesel.scale.router import JobRouter
from eyesel.scale.run import scale_of
from eyesel.serve.jobs import new_id

ROOT = Path(__file__).parents[2]


def ask(application, body=(b"a", b"bc"), path="/classify", headers=(), closes=False):
    """What a client gets from an ASGI application behind `Steadfast`: (status, body), or None."""
    parts = [{"type": "http.request", "body": part, "more_body": part != body[-1]} for part in body]
    answer = []

    async def receive():
        if parts:
            return parts.pop(0)
        if not closes:
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message):
        answer.append(message)

    scope = {"type": "http", "path": path, "headers": list(headers)}
    asyncio.run(asyncio.wait_for(proxy.Steadfast(application)(scope, receive, send), 30))
    return (answer[0]["status"], answer[1]["body"]) if answer else None


def replica(dies, seen, after=2, begins=False):
    """An application that ends without a word the first `dies` times, after it has read `after` parts."""

    async def application(scope, receive, send):
        seen.append([(await receive())["body"] for _ in range(after)])
        if begins or len(seen) > dies:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if len(seen) > dies:
            await send({"type": "http.response.body", "body": b"".join(seen[-1])})

    return application


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(proxy, "PAUSE", 0.001)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_request_is_sent_again_whole(after):
    seen = []

    async def application(scope, receive, send):
        dies = len(seen) < 2
        seen.append([(await receive())["body"] for _ in range(after if dies else 2)])
        if not dies:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"".join(seen[-1])})

    assert ask(application) == (200, b"abc")
    assert seen == [[b"a", b"bc"][:after]] * 2 + [[b"a", b"bc"]]


def test_it_is_not_sent_forever_nor_after_an_answer_has_begun_nor_for_nobody():
    seen = []
    assert ask(replica(99, seen)) is None and len(seen) == proxy.ATTEMPTS
    seen = []

    async def broken_off(scope, receive, send):
        seen.append(1)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    with pytest.raises(IndexError):
        ask(broken_off)
    assert seen == [1]

    async def client_leaves(scope, receive, send):
        seen.append(2)
        while (await receive())["type"] != "http.disconnect":
            pass

    assert ask(client_leaves, closes=True) is None and seen == [1, 2]


def test_what_is_too_large_to_be_kept_is_sent_once(monkeypatch):
    monkeypatch.setattr(proxy, "KEPT", 2)
    seen = []
    assert ask(replica(1, seen)) is None and seen == [[b"a", b"bc"]]
    seen = []
    assert ask(replica(1, seen, after=1)) == (200, b"a")  # nothing had been thrown away


def test_a_request_about_a_job_says_where_the_job_is():
    seen = []

    async def application(scope, receive, send):
        seen.append(dict(scope["headers"]).get(b"x-session-id"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    id = new_id("abcd1234")
    for path in (f"/jobs/{id}", f"/jobs/{id}/pictures/0", "/jobs", "/jobs/unknown", f"/jobs/{new_id()}"):
        ask(application, path=path, headers=[(b"x-session-id", b"mine")])
    assert seen == [b"abcd1234", b"abcd1234", b"mine", b"mine", b"mine"]


def test_the_router_goes_to_the_replica_of_a_job():
    replicas = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in "abc"]

    def chosen(session, among=replicas):
        request = SimpleNamespace(metadata=SimpleNamespace(session_id=session))
        [rank] = asyncio.run(JobRouter.choose_replicas(None, among, request))
        return {each.replica_id.unique_id for each in rank}

    assert chosen("b") == {"b"}
    assert {len(chosen(session)) for session in ("", "gone") for _ in range(9)} == {2}
    assert set().union(*(chosen("") for _ in range(50))) == {"a", "b", "c"}
    assert chosen("", replicas[:1]) == {"a"} and chosen("a", []) == set()


def wanted(requests, jobs, target=4):
    config = AutoscalingConfig(min_replicas=1, max_replicas=9, target_ongoing_requests=target)
    told = {JOBS: {number: float(waiting) for number, waiting in enumerate(jobs)}} if jobs is not None else None
    whose = ("deployment_id", "deployment_name", "app_name", "running_replicas")
    rest = ("total_queued_requests", "raw_metrics", "last_scale_up_time", "last_scale_down_time", "current_time")
    nothing = dict.fromkeys((*whose, *rest))
    context = AutoscalingContext(
        **nothing,
        current_num_replicas=2,
        target_num_replicas=2,
        total_num_requests=requests,
        aggregated_metrics=told,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=9,
        policy_state={"kept": 1},
        config=config,
    )
    number, state = by_work(context)
    assert state == {"kept": 1}
    return number


def test_replicas_for_requests_and_for_jobs():
    assert wanted(0, None) == wanted(0, [0, 0]) == 0  # the least that is configured is Ray's to keep
    assert wanted(9, None) == 3 and wanted(9, [1, 0]) == 3
    assert wanted(1, [3, 4]) == 4


def test_how_many_replicas():
    assert (scale_of(None, None, None, None, None).least, scale_of(3, None, None, None, None).most) == (2, 3)
    some = scale_of(None, 2, None, 0.5, "auto")
    assert (some.least, some.most, some.cpus, some.cluster) == (2, 2, 0.5, "auto")
    assert (scale_of(None, None, 5, None, None).least, scale_of(None, None, 1, None, None).most) == (1, 1)
    for wrong in ((2, 1, None, None), (None, 3, 2, None), (None, 1, 2, 0)):
        with pytest.raises(SettingError):
            scale_of(*wrong, None)


@pytest.fixture(scope="module")
def service():
    return yaml.safe_load((ROOT / "deploy" / "kuberay.yaml").read_text())


def test_the_file_for_kuberay_is_what_ray_reads(service):
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    [application] = config.applications
    [deployment] = application.deployments
    assert deployment.name == app.NAME and application.import_path == "eyesel.scale.app:build"
    policy = deployment.autoscaling_config["policy"]["policy_function"]
    module, _, name = policy.partition(":")
    assert getattr(importlib.import_module(module), name) is by_work
    AutoscalingConfig(**deployment.autoscaling_config)
    [options] = app.build(application.args)._bound_deployment.init_args
    assert options.models == ("tiny",) and options.data == Path("/data")
    assert config.http_options.port == 8000
    version = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert version is None or service["spec"]["rayClusterConfig"]["rayVersion"] == version[1]


def test_an_application_from_a_config_file(monkeypatch):
    monkeypatch.setenv("EYESEL_API_KEY", "one two")
    [options] = app.build({"models": ["tiny"], "limits": {"queue": 3}, "warm_up": False})._bound_deployment.init_args
    assert options.api_keys == ("one", "two") and options.limits.queue == 3 and not options.warm_up
    with pytest.raises(SettingError, match="did you mean models"):
        app.build({"model": "tiny"})
    with pytest.raises(SettingError, match="did you mean queue"):
        app.build({"limits": {"queues": 3}})


def test_the_image_is_built_of_what_is_there():
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    shown = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(shown)
    assert all((ROOT / name).exists() for name in copied)
    assert f"{proxy.CALLBACK}" in "\n".join(lines)
    assert [each.cls for each in proxy.middlewares()] == [proxy.Steadfast]
