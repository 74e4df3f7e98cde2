"""Two replicas by Ray Serve: jobs are found wherever they are asked for, and nobody notices when one is killed."""

import json
import os
import signal
import sys

import httpx
import pytest
from benchmarks.ray_replicas import Served, measure, wait_for_replicas

from serving import FOX, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes of replicas in /proc"),
]


@pytest.fixture(scope="module")
def served():
    served = Served("--replicas", "2", "--replica-cpus", "1")
    wait_for_replicas(served, 2)
    yield served
    assert served.stop() == 0


def test_jobs_are_found_where_they_are_and_outlive_their_replica(served):
    with httpx.Client(base_url=served.url, timeout=60) as client:

        def state(id):
            answer = client.get(f"/jobs/{id}")
            assert answer.status_code == 200, answer.text
            return answer.json()["state"]

        def order(**settings):
            return client.post("/jobs", json={"prompt": FOX, "seed": 7, "steps": 2, **settings}).json()["id"]

        ids = [order() for _ in range(12)]
        assert len({id.partition("-")[0] for id in ids}) == 2  # both replicas had some
        for id in ids:
            with client.stream("GET", f"/jobs/{id}/events?previews=false") as events:
                told = [json.loads(line[6:]) for line in events.iter_lines() if line.startswith("data: ")]
            assert told[-1]["state"] == "done" and {each["id"] for each in told} == {id}
        pictures = [client.get(f"/jobs/{id}/pictures/0").content for id in ids]
        assert {each["id"] for each in client.get("/jobs").json()["jobs"]} >= set(ids)

        for _ in range(4):
            long = order(steps=150)
            wait_for(lambda long=long: state(long) == "running")
            assert client.delete(f"/jobs/{long}").status_code == 200
            wait_for(lambda long=long: state(long) == "cancelled")

        running = [order(steps=150) for _ in range(6)]
        os.kill(victim := max(served.replicas()), signal.SIGKILL)
        wait_for(lambda: {state(id) for id in running} <= {"done", "interrupted"})
        assert "interrupted" in {state(id) for id in running}
        assert [client.get(f"/jobs/{id}/pictures/0").content for id in ids] == pictures
        lost = next(id for id in running if state(id) == "interrupted")
        assert '"interrupted"' in client.get(f"/jobs/{lost}/events").text
        assert client.delete(f"/jobs/{lost}").json()["state"] == "interrupted"
        wait_for_replicas(served, 2, victim)


def test_no_request_fails_when_a_replica_is_killed(served):
    facts = measure(served, 6, clients=6, painters=1, kill=True)
    assert facts["failed"] == 0 and facts["requests"] > 50, facts
    assert set(facts["jobs"]) <= {"done", "interrupted"}
