"""When a batch of pictures is made, and of which: on a clock that the tests move themselves."""

import asyncio
import threading
from contextlib import ExitStack

import pytest
import torch

from eyesel.serve.batches import Batches
from eyesel.serve.errors import ApiError
from eyesel.serve.options import Limits, ServerOptions

WAIT = 0.020  # seconds that a batch waits at most


class Worker:
    """What a server has around its batches; a batch takes `took` seconds, and its answers are what it was asked."""

    def __init__(self, took=0.005, max_batch=8, **limits):
        options = ServerOptions(max_batch=max_batch, max_wait_ms=1000 * WAIT, limits=Limits(**limits))
        self.now, self.took, self.made = 100.0, took, []
        self.batches = Batches(threading.Condition(), options, self._compute, self._seen, lambda: self.now)

    def _compute(self, key, pixels, finishes):
        self.now += self.took
        return [(key, finish, float(row.mean())) for finish, row in zip(finishes, pixels, strict=True)]

    def _seen(self, number, seconds):
        self.made.append(number)
        self.seconds = seconds

    def ask(self, client, key="k", value=0.0, side=2):
        with self.batches.arriving(client, 1):
            return self.batches.ask(key, client, torch.full((1, 3, side, side), float(value)), client)

    @property
    def due(self):
        return self.batches.due(self.now)

    def serve(self):
        """Batches for as long as there is one to make now."""
        while self.due == 0:
            self.batches.run()


def run(work):
    async def whole():
        await asyncio.wait_for(work(), 20)

    asyncio.run(whole())


def test_a_lone_client_never_waits():
    async def work():
        worker = Worker()
        assert worker.due is None
        for value in range(4):
            asked = worker.ask("a", value=value)
            assert worker.due == 0
            worker.batches.run()
            assert await asked == ("k", "a", value) and worker.seconds == pytest.approx(worker.took)
            worker.now += 0.001
        assert worker.made == [1] * 4 and worker.due is None

    run(work)


def test_clients_that_have_just_been_answered_are_waited_for():
    async def work():
        worker, clients = Worker(), [f"client {i}" for i in range(8)]
        for _ in range(3):
            for number, client in enumerate(clients, 1):
                worker.ask(client)
                assert (worker.due == 0) is (number == 8) or not worker.made  # nothing is known before the first batch
                worker.now += 0.0001
            worker.serve()
        assert worker.made == [8, 8, 8] and len(worker.batches) == 0

    run(work)


@pytest.mark.parametrize(("took", "longest"), [(0.005, 0.005), (0.5, WAIT)])
def test_a_batch_waits_no_longer_than_the_last_one_took_nor_than_it_may(took, longest):
    async def work():
        worker = Worker(took)
        for client in "abcdefgh":
            worker.ask(client)
        worker.serve()
        worker.ask("a")  # alone: the others do not come again
        assert worker.due == pytest.approx(longest)
        worker.now += longest / 2
        assert worker.due == pytest.approx(longest / 2)
        worker.now += longest
        assert worker.due == 0
        worker.serve()
        worker.ask("a")
        assert worker.due == 0 and worker.made == [8, 1]  # and they are not waited for again

    run(work)


def test_the_wait_begins_when_the_device_is_free():
    async def work():
        worker = Worker()
        for client in "abcd":
            worker.ask(client)
        first = worker.batches
        taken = worker._compute

        def meanwhile(*batch):  # one asks while the batch is on the device
            worker.ask("a")
            return taken(*batch)

        first._compute = meanwhile
        first.run()
        assert worker.made == [4] and worker.due == pytest.approx(worker.took)

    run(work)


def test_who_comes_later_does_not_put_off_who_waits():
    async def work():
        worker = Worker()
        for client in "abcdefgh":
            worker.ask(client)
        worker.serve()
        worker.ask("a")  # has been served, so that those who have not come before it
        for client in "wxyz":
            worker.now += 0.001
            worker.ask(client)
        assert worker.due == pytest.approx(0.001)
        worker.now += 0.001
        worker.serve()
        assert worker.made == [8, 5]

    run(work)


def test_what_is_being_decoded_is_waited_for_and_what_fails_is_not():
    async def work():
        worker = Worker()
        worker.ask("a")
        worker.serve()
        worker.now += 1
        with ExitStack() as decoding:
            decoding.enter_context(worker.batches.arriving("b", 2))
            worker.ask("a")
            assert worker.due == pytest.approx(worker.took)
        assert worker.due == 0  # neither came
        worker.serve()
        with pytest.raises(OSError), worker.batches.arriving("b", 2):
            raise OSError
        worker.ask("a")
        assert worker.due == 0

    run(work)


def test_a_batch_has_one_key_and_one_size():
    async def work():
        worker = Worker()
        asked = [
            worker.ask(str(i), key, i, side)
            for i, (key, side) in enumerate([("k", 2), ("l", 2), ("k", 3), ("k", 2), ("l", 2), ("k", 3)])
        ]
        while len(worker.batches):
            worker.now += WAIT
            worker.serve()
        assert worker.made == [2, 2, 2]
        answers = await asyncio.gather(*asked)
        assert [(key, client, value) for key, client, value in answers] == [
            (key, str(i), i) for i, key in enumerate("klkklk")
        ]

    run(work)


def test_more_than_fit_are_served_at_once_in_turns():
    async def work():
        worker = Worker(max_batch=4)
        many = [worker.ask("many", value=i) for i in range(6)]
        few = worker.ask("few")
        assert worker.due == 0
        worker.batches.run()
        assert worker.made == [4]
        await few
        await asyncio.gather(*many[:3])
        assert not any(asked.done() for asked in many[3:])
        worker.serve()
        worker.now += WAIT
        worker.serve()
        await asyncio.gather(*many)

    run(work)


def test_nobody_is_answered_who_has_gone():
    async def work():
        worker = Worker()
        asked = [worker.ask(client, value=1) for client in "abcd"]
        for gone in asked[:3]:
            gone.cancel()
        worker.serve()
        assert worker.made == [1] and (await asked[3])[1] == "d"
        worker.ask("d")
        assert worker.due == 0  # and nobody of them is waited for
        for gone in [worker.ask(client) for client in "abcd"]:
            gone.cancel()
        worker.serve()
        worker.now += WAIT
        worker.serve()
        assert worker.made == [1, 1] and worker.due is None

    run(work)


def test_what_fails_fails_for_all_of_a_batch_and_the_next_one_is_served():
    async def work():
        worker = Worker()

        def failing(*_):
            raise RuntimeError("no memory")

        worker.batches._compute, compute = failing, worker.batches._compute
        asked = [worker.ask(client) for client in "ab"]
        worker.batches.run()
        for each in asked:
            with pytest.raises(RuntimeError, match="no memory"):
                await each
        worker.batches._compute = compute
        last = worker.ask("a")
        worker.now += WAIT
        worker.serve()
        assert await last == ("k", "a", 0.0)

    run(work)


def test_there_is_an_end_to_what_waits():
    async def work():
        worker = Worker(asks=4, share=0.5)
        for client in "aabb":
            worker.ask(client)
        with pytest.raises(ApiError) as full:
            worker.ask("c")
        assert full.value.status == 429 and full.value.code == "queue_full" and full.value.retry_after >= 1
        worker.serve()
        with pytest.raises(ApiError) as share, worker.batches.arriving("a", 3):
            pass
        assert share.value.code == "client_queue_full"

    run(work)
