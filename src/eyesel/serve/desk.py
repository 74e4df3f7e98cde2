"""Where jobs wait, who is next, and what becomes of them.

The queue is fair between clients. The worker takes jobs from it and carries them out step by step; every way in which a
job can end goes through `_end`, and it ends for its clients only when it is in the store.
"""

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future

from eyesel.errors import EyeselError
from eyesel.serve.checks import NAMES, check_painter
from eyesel.serve.errors import ApiError, bad_input
from eyesel.serve.fair import FairQueue
from eyesel.serve.jobs import Job, State, ended_error
from eyesel.serve.metrics import Metrics
from eyesel.serve.options import Limits
from eyesel.serve.painting import batch_key, paint
from eyesel.serve.pool import ModelPool
from eyesel.serve.store import Store

log = logging.getLogger("eyesel.serve")
LONGEST_RETRY = 120.0  # seconds; clients give up on more


class JobDesk:
    """`lock` is that of the worker, which calls `next`; all else is called in the event loop `loop`."""

    def __init__(
        self,
        lock: threading.Condition,
        loop: asyncio.AbstractEventLoop,
        pool: ModelPool,
        store: Store,
        metrics: Metrics,
        limits: Limits,
    ) -> None:
        self._lock, self._loop, self._pool, self._store = lock, loop, pool, store
        self._metrics, self._limits = metrics, limits
        self._queue: FairQueue[Job] = FairQueue(limits.queue, limits.share, "jobs")
        self._live: OrderedDict[str, Job] = OrderedDict()  # that have not ended
        self._usual = 1.0  # seconds that a job takes, lately
        self.closed = False

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, job: Job) -> None:
        """Queue a job. Raises a 429 with a time to come again where there is no room."""
        if self.closed:
            raise ApiError(503, "The server is shutting down: send it again.", None, "shutting_down", 5)
        job.desk, job.key = self, batch_key(job)
        retry = min(max(self._usual * len(self._queue), 1.0), LONGEST_RETRY)
        with self._lock:
            self._queue.check(job.client, 1, round(retry, 1))
        if sum(each.pixels for each in self._live.values()) + job.pixels > self._limits.queued_pixels:
            raise ApiError(
                429, "The pictures of waiting jobs fill the memory: come again later.", None, "queue_full", retry
            )
        job.recorded = asyncio.wrap_future(self._store.write(job, "queued"))
        job.expiry = self._loop.call_later(self._limits.wait, self._expire, job)
        self._live[job.id] = job
        with self._lock:
            self._queue.put(job, job.client, job.priority)
            self._lock.notify_all()

    def get(self, id: str) -> Job | None:
        """A job of this process or of the store."""
        return self._live.get(id) or self._store.get(id)

    @property
    def unfinished(self) -> int:
        return len(self._live)

    def running(self) -> list[Job]:
        return [job for job in self._live.values() if job.state == "running"]

    def position(self, job: Job) -> int | None:
        with self._lock:
            return self._queue.position(job)

    def cancel(self, job: Job | str) -> bool:
        """Whether there was something to stop: a waiting job ends now, a running one after its step."""
        found = self._live.get(job if isinstance(job, str) else job.id)
        if found is None or found.ended:
            return False
        found.stop = True
        with self._lock:
            waited = self._queue.remove(found)
        if waited:
            self._end(found, "cancelled")
            self._moved_up()
        return True

    def _expire(self, job: Job) -> None:
        with self._lock:
            waited = self._queue.remove(job)
        if waited:
            error = ApiError(
                503, f"The job waited {self._limits.wait:g} seconds in vain: send it again.", None, "queue_timeout", 30
            )
            self._end(job, "failed", error)

    def interrupt_waiting(self) -> None:
        """Take no more jobs, and end those that have not begun."""
        self.closed = True
        with self._lock:
            waiting = list(self._queue.ordered())
            for job in waiting:
                self._queue.remove(job)
        for job in waiting:
            self._end(job, "interrupted")

    async def idle(self) -> None:
        """When every job has ended and is in the store."""
        while self._live:
            await asyncio.sleep(0.02)

    # What follows is called by the worker

    def next(self) -> Iterator[None] | None:
        """The jobs to paint next, as a generator that makes a step at a time; the lock is held."""
        jobs: list[Job] = self._queue.take(self._fits)
        return self._serve(jobs) if jobs else None

    def _fits(self, taken: list[Job], job: Job) -> bool:
        return sum(each.n for each in taken) + job.n <= self._limits.batch and job.key == taken[0].key

    def _serve(self, jobs: list[Job]) -> Iterator[None]:
        now = time.time()
        for job in jobs:
            job.state, job.started = "running", now
            self._store.write(job, "running")
            self._metrics.waited(now - job.created)
            self._tell(job)
        self._loop.call_soon_threadsafe(self._moved_up)
        try:
            yield from self._paint(jobs)
        except GeneratorExit:
            self._end_all(jobs, "interrupted")
            raise
        except (EyeselError, ApiError) as error:
            if len(jobs) > 1:  # one of them is at fault
                for job in jobs:
                    yield from self._serve([job])
                return
            self._end_all(jobs, "failed", error if isinstance(error, ApiError) else bad_input(error, NAMES))
        except Exception as error:
            self._end_all(jobs, "failed", _unexpected(error))

    def _paint(self, jobs: list[Job]) -> Iterator[None]:
        easel = self._pool.get(jobs[0].model, "painter")
        for job in jobs:  # when it was queued, the painter may not have been loaded
            check_painter(easel, job.task, job.settings, job.images, self._limits)
        started = last = time.monotonic()
        for _ in paint(jobs, easel, self._limits.batch, self._moved):
            now = time.monotonic()
            self._metrics.stepped(sum(job.n for job in jobs), now - last)
            yield
            last = time.monotonic()
            if last - started > self._limits.timeout:
                raise ApiError(
                    422,
                    f"The job took longer than {self._limits.timeout:g} seconds, at step {jobs[0].step} of "
                    f"{jobs[0].steps}: take fewer steps, or a smaller size.",
                    "steps",
                    "timeout",
                )
        self._usual += 0.3 * ((time.monotonic() - started) / len(jobs) - self._usual)
        for job in jobs:
            self._end_all([job], "cancelled" if job.stop else "done")

    def _moved(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._tell(job)

    def _tell(self, job: Job) -> None:
        self._loop.call_soon_threadsafe(job.changed)

    def _end_all(self, jobs: list[Job], state: State, error: ApiError | None = None) -> None:
        for job in jobs:
            if not job.ended:
                self._loop.call_soon_threadsafe(self._end, job, "cancelled" if job.stop else state, error)

    # And this in the event loop again

    def _moved_up(self) -> None:
        with self._lock:
            waiting = list(self._queue.ordered())
        for job in waiting:
            job.changed()

    def _end(self, job: Job, state: State, error: ApiError | None = None) -> None:
        if job.expiry is not None:
            job.expiry.cancel()
        job.finished = time.time()
        error = error if state == "failed" else ended_error(state)
        written = self._store.write(job, state, error)
        written.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._ended, job, state, error, done))

    def _ended(self, job: Job, state: State, error: ApiError | None, written: "Future[None]") -> None:
        if (problem := written.exception()) is not None:
            log.error("a job could not be stored", extra={"job": job.id, "problem": str(problem)})
            state, error = "failed", unstored()
        job.state, job.error, job.images = state, error, {}
        log.info("job ended", extra={"job": job.id, "state": state, "error": error and error.code})
        self._live.pop(job.id, None)
        self._metrics.ended(job.task, state, job.finished - job.created if job.finished else 0)
        job.changed()

    def list(self, client: str | None = None, most: int = 100) -> list[Job]:
        """The newest jobs first, of one client or of all."""
        return [self._live.get(job.id, job) for job in self._store.list(client, most)]


def unstored() -> ApiError:
    """Of a job that the folder of the server has no room for."""
    return ApiError(503, "The job could not be stored: the log of the server says why.", None, "storage", 30)


def _unexpected(error: Exception) -> ApiError:
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return ApiError(400, "There is not enough memory for this: take a smaller size, or fewer.", "size", "memory")
    log.exception("a job failed", exc_info=error)
    return ApiError(500, "Something unexpected went wrong; the log of the server says what.", None, "internal")
