"""A bounded queue that is fair between clients: they are served in turns, whoever asks for how much.

Priorities come first; within one, who was served last comes last, and each client's own items stay in their order. The
caller holds the lock.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Generic, TypeVar

from eyesel.serve.errors import ApiError

T = TypeVar("T")
MOST_CLIENTS = 1000  # that are remembered


class FairQueue(Generic[T]):
    """At most `length` items, of one client at most the share `share` of them."""

    def __init__(self, length: int, share: float, things: str) -> None:
        self._length, self._share, self._things = length, max(int(length * share), 1), things
        self._lanes: dict[int, dict[str, deque[T]]] = {}
        self._served: OrderedDict[str, int] = OrderedDict()  # when clients were served, the last one last
        self._turns = count(1)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def check(self, client: str, number: int, retry_after: float) -> None:
        """Raise a 429 unless there is room for `number` more items of this client."""
        if self._size + number > self._length:
            raise ApiError(
                429,
                f"The queue of {self._length} {self._things} is full: come again later.",
                None,
                "queue_full",
                retry_after,
            )
        waiting = sum(len(lane.get(client, ())) for lane in self._lanes.values())
        if waiting + number > self._share:
            raise ApiError(
                429,
                f"You have {waiting} {self._things} waiting, and {self._share} are a client's share: wait for some.",
                None,
                "client_queue_full",
                retry_after,
            )

    def put(self, item: T, client: str, priority: int = 0) -> None:
        self._lanes.setdefault(priority, {}).setdefault(client, deque()).append(item)
        self._size += 1

    def ordered(self) -> Iterator[T]:
        """The items as they would be served."""
        for priority in sorted(self._lanes, reverse=True):
            clients = sorted(self._lanes[priority], key=lambda client: self._served.get(client, 0))
            lanes = [self._lanes[priority][client] for client in clients]
            for turn in count():
                lanes = [lane for lane in lanes if len(lane) > turn]
                if not lanes:
                    break
                for lane in lanes:
                    yield lane[turn]

    def take(self, fits: Callable[[list[T], T], bool]) -> list[T]:
        """The first item, and all after it that fit with those taken so far."""
        taken: list[T] = []
        for item in self.ordered():
            if not taken or fits(taken, item):
                taken.append(item)
        for item in taken:
            self._remove(item, served=True)
        return taken

    def remove(self, item: T) -> bool:
        """Whether it was there."""
        return self._remove(item, served=False)

    def position(self, item: T) -> int | None:
        """From 1; None if it does not wait."""
        return next((i for i, other in enumerate(self.ordered(), 1) if other is item), None)

    def _note(self, client: str) -> None:
        self._served[client] = next(self._turns)
        self._served.move_to_end(client)
        if len(self._served) > MOST_CLIENTS:
            self._served.popitem(last=False)

    def _remove(self, item: T, served: bool) -> bool:
        for priority, lanes in self._lanes.items():
            for client, lane in lanes.items():
                if item in lane:
                    lane.remove(item)
                    self._size -= 1
                    if not lane:
                        del lanes[client]
                    if served:
                        self._note(client)
                    if not lanes:
                        del self._lanes[priority]
                    return True
        return False
