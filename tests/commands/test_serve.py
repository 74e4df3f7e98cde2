"""`eyesel serve` as a process: it says where it listens, stops gracefully, and forgets nothing when it is killed."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx

from command_line import refused
from eyesel.serve.store import Store

PROGRAM = [sys.executable, "-c", "from eyesel.cli import main; main()", "serve", "--port", "0", "--no-web"]
PROMPT = "a large fox on a blue background"


@contextmanager
def process(*options):
    program = subprocess.Popen(
        [*PROGRAM, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        line = program.stdout.readline()
        program.url = re.search(r"http://[\d.]+:\d+", line)[0]
        yield program
    finally:
        program.kill()
        program.communicate()


def ended(client, id):
    deadline = time.monotonic() + 60
    while (state := client.get(f"/jobs/{id}").json()["state"]) in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return state


def test_a_killed_server_forgets_nothing_and_ctrl_c_is_graceful(tmp_path):
    with process("--data", str(tmp_path / "kept")) as program, httpx.Client(base_url=program.url) as client:
        done = client.post("/jobs", json={"prompt": PROMPT, "steps": 2}).json()["id"]
        assert ended(client, done) == "done"
        picture = client.get(f"/jobs/{done}/pictures/0").content
        running = client.post("/jobs", json={"prompt": PROMPT, "steps": 150}).json()["id"]
        program.send_signal(signal.SIGKILL)
        program.wait()
    with process("--data", str(tmp_path / "kept")) as program, httpx.Client(base_url=program.url) as client:
        assert "interrupted" in program.stdout.readline()
        assert client.get(f"/jobs/{running}").json()["state"] == "interrupted"
        assert client.get(f"/jobs/{done}/pictures/0").content == picture
        last = client.post("/jobs", json={"prompt": PROMPT, "steps": 20}).json()["id"]
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=30)
        assert "Traceback" not in out + err
    store = Store(tmp_path / "kept", 10)
    assert store.get(last).state == "done"
    store.close()


def test_a_port_that_is_taken(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused(run("serve", "--port", taken.getsockname()[1]), "port", "--port")


def test_other_addresses_need_a_key(run):
    refused(run("serve", "--host", "0.0.0.0"), "--api-key", "--insecure")


def test_models_that_are_none(run, tmp_path):
    refused(run("serve", "--port", 0, "--model", "tinny", "--offline"), "tiny")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    refused(run("serve", "--port", 0, "--model", tmp_path / "broken"), "broken")


def test_a_folder_that_cannot_keep_jobs(run, tmp_path):
    (tmp_path / "file").write_text("")
    refused(run("serve", "--port", 0, "--data", tmp_path / "file"), "--data")


def test_replicas_are_refused_where_they_cannot_be(run):
    refused(run("serve", "--replicas", 2), "--ray")
    refused(run("serve", "--ray-address", "auto"), "--ray")
    refused(run("serve", "--ray", "--web"), "--web")
    refused(run("serve", "--ray", "--replicas", 2, "--max-replicas", 3), "replicas")
    refused(run("serve", "--ray", "--min-replicas", 3, "--max-replicas", 2), "from 3 to 2")
    refused(run("serve", "--ray", "-m", "tinny"), "tinny")
