"""Batches that are made in threads while the step before them is computed.

accelerate's loader asks for a batch before it hands out the last one, to know which one ends the epoch, and moves it to
the device only when its turn has come. So a batch need not be there when it is asked for: it is begun then, and waited
for when it is to be moved. What is in it, and the order, are those of a loader without threads.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch.utils.data import Dataset

from eyesel.train.pictures import WORKERS

Promise = Callable[[], Any]


class Promises(Dataset[Promise]):
    """A data set whose rows are not read yet: each is what reads it."""

    def __init__(self, data: Dataset[Any]) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)  # type: ignore[arg-type]

    def __getitem__(self, key: Any) -> Promise:
        return partial(self._data.__getitem__, key)


class Begin:
    """Takes the place of `collate`, with the rows of `Promises`; has threads of its own."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = collate
        self._pool = ThreadPoolExecutor(WORKERS, "eyesel-batch")

    def __call__(self, promises: Sequence[Promise]) -> "Begun":
        rows = [self._pool.submit(promise) for promise in promises]
        # Threads take up work in its order, so the rows are never behind what waits for them.
        return Begun(self._pool.submit(lambda: self._collate([row.result() for row in rows])))


class Begun:
    """A batch in the making."""

    def __init__(self, batch: Future[Any]) -> None:
        self._batch = batch

    def to(self, device: torch.device, non_blocking: bool = False) -> Any:
        return send_to_device(self._batch.result(), device, non_blocking=non_blocking)
