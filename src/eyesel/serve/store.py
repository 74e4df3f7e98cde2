"""What outlives the server: jobs in SQLite, their pictures as PNG files in a folder.

One thread writes, so that neither the event loop nor the thread that computes waits for the disk. A job is `done` in
the table only when all its pictures have their names; a job that was not at its end when its server stopped is
`interrupted`. Several servers of one machine can share a folder.
"""

import json
import sqlite3
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from eyesel.errors import OutputError
from eyesel.serve.errors import ApiError
from eyesel.serve.jobs import ENDED, Job, State, ended_error
from eyesel.serve.presence import Presence

_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
  id TEXT PRIMARY KEY, client TEXT, task TEXT, model TEXT, settings TEXT, n INTEGER, seeds TEXT, priority INTEGER,
  state TEXT, created REAL, started REAL, finished REAL, error TEXT, files TEXT, server TEXT
);
CREATE INDEX IF NOT EXISTS by_time ON jobs (created);
"""
_COLUMNS = "id client task model settings n seeds priority state created started finished error files".split()  # noqa: SIM905


class Store:
    """In `folder`: `jobs.sqlite` and `pictures/`. Raises `OutputError` where nothing can be written there."""

    def __init__(self, folder: Path, kept: int) -> None:
        self._kept, self.pictures = kept, folder / "pictures"
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, "eyesel-store")
        try:
            self.pictures.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(folder / "jobs.sqlite", check_same_thread=False, isolation_level=None)
            self._base.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _TABLE)
            self._base.execute(f"SELECT {','.join(_COLUMNS)}, server FROM jobs LIMIT 1")
            self._presence = Presence(folder)
            self.interrupted = self._recover()
        except (OSError, sqlite3.Error) as error:
            raise OutputError(f"{folder} cannot keep jobs ({error}): choose another --data folder.") from None

    def _recover(self) -> int:
        """How many jobs servers that are gone did not end; remains of pictures that never got names are removed."""
        gone = self._interrupt_lost()
        if self._presence.alone():
            for remains in self.pictures.glob(".eyesel-*.tmp"):
                remains.unlink(missing_ok=True)
        return gone

    def _interrupt_lost(self) -> int:
        """Jobs that are not at their end, and whose server is."""
        open_ = f"state NOT IN ({','.join('?' * len(ENDED))})"
        with self._lock:
            servers = self._base.execute(f"SELECT DISTINCT server FROM jobs WHERE {open_}", ENDED).fetchall()
            lost = [server for (server,) in servers if not self._presence.of(server)]
            return sum(
                self._base.execute(
                    f"UPDATE jobs SET state = 'interrupted' WHERE server IS ? AND {open_}", (server, *ENDED)
                ).rowcount
                for server in lost
            )

    def write(self, job: Job, state: State, error: ApiError | None = None) -> "Future[None]":
        """Keep a job in that state, its pictures first."""
        pictures = job.made or []
        job.files = [self.pictures / f"{job.id}-{i}.png" for i in range(len(pictures))]
        row = _row(job, state, error)
        return self._writer.submit(self._write, row, list(zip(pictures, job.files, strict=True)), state in ENDED)

    def _write(self, row: list[Any], pictures: list[tuple[Any, Path]], ended: bool) -> None:
        for picture, file in pictures:
            picture.save(file)
        marks = ",".join("?" * (len(row) + 1))
        with self._lock:
            self._base.execute(
                f"INSERT OR REPLACE INTO jobs ({','.join(_COLUMNS)}, server) VALUES ({marks})",
                (*row, self._presence.name),
            )
        if ended:
            self._prune()

    def _prune(self) -> None:
        with self._lock:
            old = self._base.execute(
                "SELECT id, files FROM jobs WHERE finished IS NOT NULL ORDER BY finished DESC LIMIT -1 OFFSET ?",
                (self._kept,),
            ).fetchall()
            self._base.executemany("DELETE FROM jobs WHERE id = ?", [(id,) for id, _ in old])
        for _, files in old:
            for name in json.loads(files or "[]"):
                (self.pictures / name).unlink(missing_ok=True)

    def get(self, id: str) -> Job | None:
        job = self._find(id)
        if job is not None and not job.ended and self._interrupt_lost():
            return self._find(id)
        return job

    def _find(self, id: str) -> Job | None:
        with self._lock:
            row = self._base.execute(f"SELECT {','.join(_COLUMNS)} FROM jobs WHERE id = ?", (id,)).fetchone()
        return None if row is None else self._job(row)

    def close(self) -> None:
        self._writer.shutdown(wait=True)
        self._base.close()
        self._presence.close()

    def _job(self, row: tuple[Any, ...]) -> Job:
        values = dict(zip(_COLUMNS, row, strict=True))
        error = values.pop("error")
        files = [self.pictures / name for name in json.loads(values.pop("files") or "[]")]
        values["settings"], values["seeds"] = json.loads(values["settings"]), json.loads(values["seeds"])
        job = Job(**values, files=files)
        job.error = ApiError(**json.loads(error)) if error else ended_error(job.state)
        return job

    def list(self, client: str | None, most: int) -> list[Job]:
        """The newest first."""
        self._interrupt_lost()
        where, values = ("", ()) if client is None else ("WHERE client = ?", (client,))
        with self._lock:
            rows = self._base.execute(
                f"SELECT {','.join(_COLUMNS)} FROM jobs {where} ORDER BY created DESC LIMIT ?", (*values, most)
            ).fetchall()
        return [self._job(row) for row in rows]


def _row(job: Job, state: State, error: ApiError | None) -> list[Any]:
    told = error and {
        "status": error.status,
        "message": error.message,
        "param": error.param,
        "code": error.code,
        "retry_after": error.retry_after,
    }
    return [
        job.id,
        job.client,
        job.task,
        job.model,
        json.dumps(job.settings),
        job.n,
        json.dumps(job.seeds),
        job.priority,
        state,
        job.created,
        job.started,
        job.finished,
        json.dumps(told) if told else None,
        json.dumps([file.name for file in job.files]),
    ]
