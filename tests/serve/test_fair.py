"""The queue: turns, priorities, shares."""

import pytest

from eyesel.serve.errors import ApiError
from eyesel.serve.fair import FairQueue


def filled(orders, length=100, share=1.0):
    queue = FairQueue(length, share, "things")
    for client, item, *priority in orders:
        queue.put(item, client, *priority)
    return queue


def served(queue):
    return [queue.take(lambda taken, item: False)[0] for _ in range(len(queue))]


def test_clients_take_turns_whoever_asks_for_how_much():
    queue = filled([*(("a", f"a{i}") for i in range(4)), ("b", "b0"), ("c", "c0"), ("b", "b1")])
    expected = ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
    assert list(queue.ordered()) == expected
    assert served(queue) == expected


def test_who_was_served_last_comes_last():
    queue = filled([("a", "a0"), ("a", "a1"), ("b", "b0")])
    assert queue.take(lambda *_: False) == ["a0"]
    queue.put("c0", "c")
    assert served(queue) == ["b0", "c0", "a1"]


def test_priorities_come_first():
    queue = filled([("a", "usual"), ("a", "late", -1), ("b", "urgent", 5), ("a", "soon", 1)])
    assert served(queue) == ["urgent", "soon", "usual", "late"]


def test_what_fits_is_taken_together():
    queue = filled([("a", 1), ("a", 2), ("b", 3), ("a", 5)])
    assert queue.take(lambda taken, item: item % 2 == 1 and len(taken) < 3) == [1, 3, 5]
    assert list(queue.ordered()) == [2]


def test_positions_and_removal():
    queue = filled([("a", "a0"), ("a", "a1"), ("b", "b0")])
    assert [queue.position(item) for item in ("a0", "b0", "a1", "other")] == [1, 2, 3, None]
    assert queue.remove("a0") and not queue.remove("a0")
    assert queue.position("a1") == 1 and len(queue) == 2


def test_a_full_queue_and_a_share_are_said_with_a_time():
    queue = filled([("a", 1), ("b", 2)], length=4, share=0.5)
    queue.check("a", 1, 3)
    queue.put(3, "a")
    with pytest.raises(ApiError, match="share") as share:
        queue.check("a", 1, 3)
    queue.put(4, "c")
    with pytest.raises(ApiError, match="full") as full:
        queue.check("d", 1, 3)
    assert [(e.value.status, e.value.code, e.value.retry_after) for e in (share, full)] == [
        (429, "client_queue_full", 3),
        (429, "queue_full", 3),
    ]
