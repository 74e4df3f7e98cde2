"""Servers that share a folder: who lives, and whose jobs were lost."""

import signal
import sqlite3
import subprocess
import sys

import pytest

from eyesel.errors import OutputError
from eyesel.serve.jobs import Job, new_id
from eyesel.serve.presence import Presence
from eyesel.serve.store import Store

OTHER = """
import sys, time
from pathlib import Path
from eyesel.serve.jobs import Job
from eyesel.serve.store import Store
store = Store(Path(sys.argv[1]), 100)
store.write(Job("generate", "tiny", {"prompt": "an owl"}, 1, [3], id="theirs"), "running").result()
print(store._presence.name, flush=True)
time.sleep(60)
"""


def job(id):
    return Job("generate", "tiny", {"prompt": "a fox"}, 1, [7], id=id)


@pytest.fixture
def other(tmp_path):
    """Another process with a job on its hands; gives it and its name."""
    process = subprocess.Popen([sys.executable, "-c", OTHER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    yield process, process.stdout.readline().strip()
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_job_is_lost_when_its_server_is_killed_and_not_before(other, tmp_path):
    process, name = other
    ours = Store(tmp_path, 100)
    assert ours.interrupted == 0 and ours._presence.of(name)
    ours.write(job("ours"), "queued").result()
    assert ours.get("theirs").state == "running" and ours.get("ours").state == "queued"
    assert {each.id: each.state for each in ours.list(None, 9)} == {"ours": "queued", "theirs": "running"}
    process.send_signal(signal.SIGKILL)
    process.wait()
    lost = ours.get("theirs")
    assert lost.state == "interrupted" and lost.error.code == "interrupted" and not ours._presence.of(name)
    assert ours.get("ours").state == "queued"
    ours.close()


def test_a_server_that_starts_finds_what_one_that_was_killed_left(other, tmp_path):
    process, _ = other
    process.kill()
    process.wait()
    ours = Store(tmp_path, 100)
    assert ours.interrupted == 1 and ours.get("theirs").settings == {"prompt": "an owl"}
    ours.close()


def test_a_folder_that_cannot_keep_jobs_is_said_in_a_sentence(tmp_path):
    garbage, older, in_the_way, none = (tmp_path / name for name in ("garbage", "older", "way", "none"))
    for folder in (garbage, older, in_the_way):
        folder.mkdir()
    (garbage / "jobs.sqlite").write_bytes(b"no database, whatever it is called, and not an empty file")
    with sqlite3.connect(older / "jobs.sqlite") as base:
        base.execute("CREATE TABLE jobs (id TEXT PRIMARY KEY, created REAL, prompt TEXT)")
    (in_the_way / "servers").write_text("a file where a folder is to be")
    none.write_text("a file")
    for folder in (garbage, older, in_the_way, none):
        with pytest.raises(OutputError, match="cannot keep jobs"):
            Store(folder, 10)
    assert "no database" in (garbage / "jobs.sqlite").read_text()  # it was left alone


def test_names_and_locks(tmp_path):
    first, second = Presence(tmp_path), Presence(tmp_path)
    assert first.of(first.name) and first.of(second.name) and second.of(first.name)
    assert not first.of("nobody") and not first.of(None) and not first.of("")
    assert not first.alone()
    second.close()
    assert first.alone() and not first.of(second.name)
    first.close()
    assert list((tmp_path / "servers").iterdir()) == []


def test_ids_say_whose_they_are():
    assert new_id("abc").startswith("abc-") and len(new_id("abc")) == 28 and len(new_id()) == 24
