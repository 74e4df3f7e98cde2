"""Dynamic batches: what many clients ask of one classifier goes through it together.

A batch is made when there are enough pictures for one, when no more are to be expected, or when the device has waited
for long enough. While it is busy the queue fills by itself. Expected are those that are being decoded, and as many as
were asked for last time: clients that have just been answered ask again, and would else take turns in half batches.
A lone client never waits.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eyesel.serve.fair import FairQueue
from eyesel.serve.options import ServerOptions

Compute = Callable[[Hashable, Tensor, list[Hashable]], list[Any]]
Seen = Callable[[int, float], None]  # how many were in a batch, and the seconds that it took


@dataclass(eq=False)
class Ask:
    """One picture (1, 3, H, W) on its way: those of one `key` share a batch, `finish` is what is made of its row."""

    key: Hashable
    finish: Hashable
    pixels: Tensor
    answer: "asyncio.Future[Any]"
    asked: float  # on the clock of the batches, in seconds


class Batches:
    """`lock` is that of the worker, which calls `due` and `run`; all else is called in the event loop.

    `compute` makes the answers of a key, pixels (B, 3, H, W) and what each is to become.
    """

    def __init__(
        self,
        lock: threading.Condition,
        options: ServerOptions,
        compute: Compute,
        seen: Seen,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock, self._compute, self._seen, self._clock = lock, compute, seen, clock
        self._most, self._wait = options.max_batch, options.max_wait_ms / 1000
        self._queue: FairQueue[Ask] = FairQueue(options.limits.asks, options.limits.share, "pictures")
        self._arriving = 0
        self._expected = 0  # pictures that clients wanted at once when the last batch was made
        self._free_since, self._took = 0.0, 0.0  # the end of the last batch, and its seconds

    def __len__(self) -> int:
        return len(self._queue)

    @contextmanager
    def arriving(self, client: str, number: int) -> Iterator[None]:
        """While so many pictures are decoded, for which a batch waits. Raises a 429 where there is no room for them."""
        with self._lock:
            self._queue.check(client, number, retry_after=1)
            self._arriving += number
        try:
            yield
        finally:
            with self._lock:
                self._arriving -= number
                self._lock.notify_all()

    def ask(self, key: Hashable, finish: Hashable, pixels: Tensor, client: str) -> "asyncio.Future[Any]":
        ask = Ask(key, finish, pixels, asyncio.get_running_loop().create_future(), self._clock())
        with self._lock:
            self._queue.put(ask, client)
        return ask.answer

    def due(self, now: float) -> float | None:
        """Called with the lock held; a question that waits is never put off by those that come after it."""
        if not self._queue:
            return None
        expected = max(self._expected, len(self._queue) + self._arriving)
        if len(self._queue) >= min(expected, self._most):
            return 0
        waits_since = max(min(ask.asked for ask in self._queue.ordered()), self._free_since)
        return max(waits_since + min(self._wait, self._took) - now, 0)

    def run(self) -> None:
        with self._lock:
            self._expected = sum(not ask.answer.cancelled() for ask in self._queue.ordered()) + self._arriving
            asks = self._queue.take(lambda taken, ask: len(taken) < self._most and _together(taken[0], ask))
        asks = [ask for ask in asks if not ask.answer.cancelled()]  # whose client has gone
        if not asks:
            return
        started = self._clock()
        results: list[Any] | Exception
        try:
            pixels = torch.cat([ask.pixels for ask in asks])  # (B, 3, H, W)
            results = self._compute(asks[0].key, pixels, [ask.finish for ask in asks])
        except Exception as error:
            results = error
        self._free_since = self._clock()
        self._took = self._free_since - started
        self._seen(len(asks), self._took)
        _loop_of(asks).call_soon_threadsafe(_deliver, asks, results)


def _together(first: Ask, other: Ask) -> bool:
    return first.key == other.key and first.pixels.shape == other.pixels.shape


def _loop_of(asks: list[Ask]) -> asyncio.AbstractEventLoop:
    return asks[0].answer.get_loop()


def _deliver(asks: list[Ask], results: list[Any] | Exception) -> None:
    for i, ask in enumerate(asks):
        if ask.answer.done():
            continue
        if isinstance(results, Exception):
            ask.answer.set_exception(results)
        else:
            ask.answer.set_result(results[i])
