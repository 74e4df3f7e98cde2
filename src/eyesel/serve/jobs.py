"""A job: one order of pictures, from its place in the queue to what came of it."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from PIL import Image

from eyesel.picture import Picture
from eyesel.serve.errors import ApiError

Task = Literal["generate", "inpaint", "stylize"]
State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
ENDED = ("done", "failed", "cancelled", "interrupted")


def new_id(server: str = "") -> str:
    """An id that nobody guesses, and which says which of several servers a job is at."""
    return f"{server}-{secrets.token_hex(12)}" if server else secrets.token_hex(12)


class Desk(Protocol):
    """What a job knows of the queue."""

    def position(self, job: "Job") -> int | None: ...

    def cancel(self, job: "Job") -> bool: ...


@dataclass(frozen=True)
class JobEvent:
    """How a job stands; `previews` are those made since the event before."""

    state: State
    position: int | None
    step: int
    steps: int
    previews: tuple[Image.Image, ...] = ()
    error: ApiError | None = None

    @property
    def preview(self) -> Image.Image | None:
        return self.previews[-1] if self.previews else None


@dataclass(eq=False)
class Job:
    """`settings` hold the prompt, too; `seeds` are those of its pictures, in order.

    `pictures` are there when it is done, and `files` are where they are stored; `step` of `steps` counts from 0.
    Of `previews` that many are made, at even distances; `preview()` asks for one more besides.
    """

    task: Task
    model: str
    settings: dict[str, Any]
    n: int
    seeds: list[int]
    client: str = ""
    priority: int = 0
    previews: int = 0
    id: str = field(default_factory=new_id)
    state: State = "queued"
    step: int = 0
    steps: int = 0
    created: float = field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None
    error: ApiError | None = None
    files: list[Path] = field(default_factory=list)
    images: dict[str, Any] = field(default_factory=dict, repr=False)
    made: list[Picture] | None = field(default=None, repr=False)  # here, by this process
    desk: "Desk | None" = field(default=None, repr=False)  # where it waits, or was served
    key: Hashable = field(default=None, repr=False)  # jobs of one key can be painted together
    recorded: "asyncio.Future[None] | None" = field(default=None, repr=False)  # when the store knows of it
    expiry: asyncio.TimerHandle | None = field(default=None, repr=False)  # of its time in the queue
    stop: bool = field(default=False, repr=False)  # it was cancelled while it ran
    _seen: "deque[tuple[int, Image.Image]]" = field(default_factory=lambda: deque(maxlen=8), repr=False)
    _asked: bool = field(default=False, repr=False)
    _version: int = field(default=0, repr=False)
    _waiting: "list[asyncio.Future[None]]" = field(default_factory=list, repr=False)

    @property
    def pixels(self) -> int:
        """Of the pictures that it starts from, while they are held."""
        held = [each for value in self.images.values() for each in (value if isinstance(value, list) else [value])]
        return sum(each.width * each.height for each in held if isinstance(each, Image.Image))

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        if self.state == "done":
            return 1.0
        return self.step / self.steps if self.steps else 0.0

    @property
    def position(self) -> int | None:
        """In the queue, from 1; None if it does not wait."""
        return self.desk.position(self) if self.desk is not None and self.state == "queued" else None

    @property
    def pictures(self) -> list[Picture]:
        """Those of a job that is done; of one from the store they are read from their files, which blocks."""
        if self.made is None:
            return [Picture.open(file) for file in self.files]
        return self.made

    def preview(self) -> Image.Image | None:
        """The newest look at the first picture in the making, if there was one; another is made in the next step."""
        self._asked = True
        return self._seen[-1][1] if self._seen else None

    def wants_preview(self) -> bool:
        """Whether one is to be made of the step that has just been done."""
        spaced = (
            self.previews
            and self.step * (self.previews + 1) // self.steps > (self.step - 1) * (self.previews + 1) // self.steps
        )
        return self._asked or bool(spaced and self.step < self.steps)

    def saw(self, image: Image.Image) -> None:
        """Keep a preview."""
        self._asked = False
        number = self._seen[-1][0] + 1 if self._seen else 1
        self._seen.append((number, image))

    def cancel(self) -> None:
        """Have it stop as soon as possible; nothing, if it has ended."""
        if self.desk is not None:
            self.desk.cancel(self)

    def changed(self) -> None:
        """Tell everybody who waits; in the event loop."""
        self._version += 1
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def updates(self, previews: bool = False) -> AsyncIterator[JobEvent]:
        """An event now and after each change, the last one when it has ended; a slow reader gets fewer.

        With `previews`, one is made for each event.
        """
        shown = 0
        while True:
            version = self._version
            if previews:
                self._asked = True
            new = [(number, image) for number, image in self._seen if number > shown]
            shown = new[-1][0] if new else shown
            yield JobEvent(
                self.state, self.position, self.step, self.steps, tuple(image for _, image in new), self.error
            )
            if self.ended and version == self._version:
                return
            while self._version == version:
                await self._change()

    async def result(self) -> list[Picture]:
        """The pictures, when they are there. Raises `ApiError` where there are none."""
        while not self.ended:
            await self._change()
        if self.error is not None:
            raise self.error
        if self.made is None:
            return await asyncio.to_thread(lambda: self.pictures)
        return self.made

    async def _change(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future


def ended_error(state: State) -> ApiError | None:
    """What is said of a job that ended so without an error of its own."""
    if state == "cancelled":
        return ApiError(400, "The job was cancelled.", None, "cancelled")
    if state == "interrupted":
        return ApiError(503, "The server was stopped before the job was done: send it again.", None, "interrupted", 1)
    return None
