"""The one thread that computes on a device: short work as it comes, long work step by step between it.

A painting of a minute does not keep a classification waiting for longer than one of its steps, and never do two threads
compete for the device.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Short(Protocol):
    """Work that is done at once."""

    def due(self, now: float) -> float | None:
        """In how many seconds there is something to do: 0 is now, None never, as things stand."""

    def run(self) -> None: ...


Long = Callable[[], Iterator[None] | None]  # the next piece of long work, if there is one; it never raises


class Worker:
    """`lock` guards what the thread and its callers share; whoever adds work notifies it."""

    def __init__(self, lock: threading.Condition, short: Short, long: Long) -> None:
        self._lock, self._short, self._long = lock, short, long
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="eyesel-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def call(self, work: Callable[[], T]) -> "Future[T]":
        """Have the thread call `work`, in turns with all else that waits."""
        future: Future[T] = Future()
        with self._lock:
            self._calls.append((work, future))
            self._lock.notify_all()
        return future

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self, patience: float) -> None:
        """After what it does now; blocks until then, for so many seconds at most."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        self._thread.join(patience)

    def _run(self) -> None:
        painting: Iterator[None] | None = None
        while True:
            call = None
            with self._lock:
                while not self._stopping:
                    call = self._calls.popleft() if self._calls else None
                    due = self._short.due(time.monotonic())
                    painting = painting or self._long()
                    if call is not None or due == 0 or painting is not None:
                        break
                    self._lock.wait(due)
                if self._stopping:
                    break
            if call is not None:
                _answer(*call)
            if due == 0:
                self._short.run()
            if painting is not None and next(painting, self) is self:
                painting = None
        if painting is not None:
            painting.close()  # type: ignore[attr-defined]
        for _, future in self._calls:
            future.cancel()


def _answer(work: Callable[[], Any], future: "Future[Any]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
