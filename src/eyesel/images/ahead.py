"""Work done ahead of its reader, in threads: Pillow lets go of the interpreter while it decodes and resizes.

A JPEG of 640x480 pixels takes 3.4 ms from its bytes to what a network of 224 reads: 2.9 in Pillow's decoder and
resizer, and at most 0.5 that hold the interpreter. So threads prepare about 2,000 pictures a second before processes
would gain anything, which had to hand over 600 KB of numbers for each.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(items: Iterable[T], work: Callable[[T], R], workers: int, most: int) -> Iterator[R]:
    """`work(item)` of each, in their order, by `workers` threads that are at most `most` items ahead.

    `items` are taken by the reader's thread, which gets what `work` raises, too.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, "eyesel-ahead") as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > most:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
