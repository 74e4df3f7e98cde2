"""The engine under every dialect: classifications in batches, paintings as jobs, on one thread of one device."""

import asyncio
import contextlib
import logging
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from fastapi import Request
from PIL import Image
from torch import Tensor

from eyesel.attention import Attention
from eyesel.classifier import Function, ImageClassifier, Prediction
from eyesel.errors import EyeselError
from eyesel.models.vit import Pool
from eyesel.picture import Picture
from eyesel.serve.answers import answers, lighter, pixels_of, warm_up
from eyesel.serve.batches import Batches
from eyesel.serve.checks import NAMES, check_order, check_painter
from eyesel.serve.desk import JobDesk, unstored
from eyesel.serve.errors import ApiError, bad_input
from eyesel.serve.intake import check_number, kept
from eyesel.serve.jobs import Job, Task, new_id
from eyesel.serve.metrics import Metrics
from eyesel.serve.options import ServerOptions
from eyesel.serve.pool import ModelPool
from eyesel.serve.store import Store
from eyesel.serve.worker import Worker

log = logging.getLogger("eyesel.serve")
T = TypeVar("T")
Images = Sequence[Image.Image | bytes]

PATIENCE = 30.0  # seconds for the last step, when the engine stops
DECODERS = 4  # threads; Pillow lets go of the interpreter while it decodes


class Engine:
    """Everything but `submit` and `jobs` is awaited in the event loop that `start` was awaited in.

    Whatever cannot be served raises `ApiError`.
    """

    def __init__(self, options: ServerOptions, name: str = "") -> None:
        """`name` is that of this one among several servers: the ids of its jobs begin with it.

        Raises `EyeselError` for models and folders that cannot be used.
        """
        self.options, self.models, self.metrics, self.name = options, ModelPool(options), Metrics(), name
        self._temporary = None if options.data else tempfile.TemporaryDirectory(prefix="eyesel-")
        self.store = Store(options.data or Path(self._temporary.name), options.limits.kept)  # type: ignore[union-attr]
        self._lock = threading.Condition()
        self._batches = Batches(self._lock, options, partial(answers, self.models), self.metrics.batched)
        self._decoders = ThreadPoolExecutor(DECODERS, "eyesel-decode")
        self._started = self.ready = False
        self._looking = 0

    async def start(self) -> None:
        """Begin to work; with `warm_up`, after the models have been loaded and asked once. Again, it does nothing.

        Raises `EyeselError` for a model that cannot be used.
        """
        if self._started:
            return
        self._started = True
        self.jobs = JobDesk(
            self._lock, asyncio.get_running_loop(), self.models, self.store, self.metrics, self.options.limits
        )
        self._worker = Worker(self._lock, self._batches, self.jobs.next)
        self._worker.start()
        if self.options.warm_up:
            try:
                await asyncio.wrap_future(self._worker.call(partial(warm_up, self.models, self.options)))
            except EyeselError:
                await self.stop(0)
                raise
        self.ready = True

    async def stop(self, grace: float = 10.0) -> None:
        """Take no more, give what runs `grace` seconds, and keep what is still there as interrupted; once is enough."""
        if not self._started or self.jobs.closed:
            return
        self.ready = False
        self.jobs.interrupt_waiting()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.jobs.idle(), grace)
        await asyncio.to_thread(self._worker.stop, PATIENCE)
        with contextlib.suppress(TimeoutError):  # what it hangs in is found interrupted at the next start
            await asyncio.wait_for(self.jobs.idle(), 1)
        self._decoders.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.store.close)
        if self._temporary is not None:
            self._temporary.cleanup()

    # Classifiers

    async def classify(
        self,
        images: Images,
        model: str | None = None,
        top_k: int = 5,
        function_to_apply: Function | None = None,
        client: str = "",
    ) -> list[list[Prediction]]:
        """The `top_k` labels of each picture, best first. Bytes are decoded here, in threads."""
        id, eye = await self._eye(model)
        _checked(lambda: eye.check_question(top_k, function_to_apply))
        return await self._ask(eye, ("logits", id), ("classify", top_k, function_to_apply), images, client)

    async def embed(
        self,
        images: Images,
        model: str | None = None,
        pool: Pool = "cls",
        layer: int | Sequence[int] = -1,
        normalize: bool = False,
        client: str = "",
    ) -> list[np.ndarray]:
        """An embedding of each picture; see `ImageClassifier.embed`."""
        id, eye = await self._eye(model)
        layers = layer if isinstance(layer, int) else tuple(layer)
        _checked(lambda: eye.embedder(pool, layers, None, normalize))
        return await self._ask(eye, ("vectors", id, pool, layers, normalize), None, images, client)

    async def infer(self, pixels: Tensor | Images, model: str | None = None, client: str = "") -> Tensor:
        """Logits (B, classes) float32 of pictures, or of what a classifier's preprocessing makes of them.

        That is (B, 3, H, W) float32.
        """
        id, eye = await self._eye(model)
        if not isinstance(pixels, Tensor):
            return torch.stack(await self._ask(eye, ("logits", id), ("infer",), pixels, client))
        config = eye.model.config
        expected = (config.channels, *config.image_size)
        if pixels.dim() != 4 or tuple(pixels.shape[1:]) != expected or not len(pixels):
            raise ApiError(
                400,
                f"The pixels have the shape {list(pixels.shape)}; this model reads {[-1, *expected]}.",
                "inputs",
                "invalid_request",
            )
        check_number(len(pixels), self.options)
        with self._batches.arriving(client, len(pixels)):
            asked = [self._batches.ask(("logits", id), ("infer",), row.unsqueeze(0), client) for row in pixels.float()]
        return torch.stack(await self._answers(asked))

    async def attend(self, image: Image.Image | bytes, model: str | None = None, **settings: Any) -> Attention:
        """What a classifier looked at; `settings` are those of `ImageClassifier.attention`.

        Its `image` is made smaller, to 2048 pixels on its longer side at most.
        """
        if self._looking >= self.options.limits.queue:
            raise ApiError(429, f"{self._looking} pictures are being looked into: come again.", None, "queue_full", 1)
        self._looking += 1
        try:
            return await self._look(image, model, settings)
        finally:
            self._looking -= 1

    async def _look(self, image: Image.Image | bytes, model: str | None, settings: dict[str, Any]) -> Attention:
        id, _ = await self._eye(model)
        opened = await asyncio.to_thread(kept, image, self.options) if isinstance(image, bytes) else image
        look: Attention = await self._on_worker(lambda: self.models.get(id, "classifier").attention(opened, **settings))
        return await asyncio.to_thread(lighter, look)

    async def eye(self, model: str | None = None) -> ImageClassifier:
        """A classifier itself, loaded if need be: its labels, and what it reads."""
        return (await self._eye(model))[1]

    # Painters

    async def load(self, model: str | None = None) -> str:
        """Load a painter, if it is not loaded; its id."""
        id = self.models.resolve(model, "painter")
        await self._on_worker(lambda: self.models.get(id, "painter"))
        return id

    async def unload(self, model: str | None = None) -> str:
        """Let go of a painter's weights until it is asked for again; its id."""
        id = self.models.resolve(model, "painter")
        await self._on_worker(lambda: self.models.forget(id, "painter"))
        return id

    def submit(
        self,
        task: Task,
        settings: dict[str, Any],
        images: dict[str, Any] | None = None,
        n: int = 1,
        model: str | None = None,
        client: str = "",
        priority: int = 0,
        previews: int = 0,
    ) -> Job:
        """Queue a job, which is checked as far as that needs no pixel.

        `settings` are the keywords of `StableDiffusion.steps` (`prompt`, `seed`, and all `Settings`), or of `styling`;
        `images` are PIL pictures: `image`, and `mask` (or "alpha"), and for `stylize` `style`, of which there may be a
        list. Raises `ApiError`: 400 or 422 with the field at fault, 404 for the model, 429 when the queue is full.
        """
        images = {name: image for name, image in (images or {}).items() if image is not None}
        settings = {name: value for name, value in settings.items() if value is not None}
        id = self.models.resolve(model, "painter")
        limits, easel = self.options.limits, self.models.peek(id, "painter")
        seeds = _checked(lambda: check_order(task, settings, images, n, limits))
        if easel is not None:
            _checked(lambda: check_painter(easel, task, settings, images, limits))
        said = {name: value for name, value in settings.items() if name != "seed"}
        if said.get("variation_strength") and "variation_seed" not in said:
            said["variation_seed"] = int(np.random.default_rng().integers(2**32))
        job = Job(task, id, said, n, seeds, client, priority, previews, new_id(self.name), images=images)
        self.jobs.put(job)
        told = {"job": job.id, "task": task, "model": id, "n": n, "client": client}
        log.info("job", extra=told | ({"prompt": settings.get("prompt")} if self.options.log_prompts else {}))
        return job

    async def recorded(self, job: Job) -> None:
        """When the store knows of a job, so that it is not forgotten if the server is killed now.

        A job that the store cannot keep is cancelled, and raises an `ApiError`.
        """
        if job.recorded is None:
            return
        try:
            await asyncio.shield(job.recorded)
        except (OSError, sqlite3.Error) as error:
            job.cancel()
            log.error("a job could not be stored", extra={"job": job.id, "problem": str(error)})
            raise unstored() from None

    async def until_disconnected(self, request: Request, job: Job) -> list[Picture]:
        """The result of a job, which is cancelled when the client of `request` goes away."""
        result = asyncio.ensure_future(job.result())
        left = asyncio.ensure_future(gone(request))
        try:
            await asyncio.wait({result, left}, return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                job.cancel()
            return await result
        finally:
            left.cancel()
            if not result.done():
                result.cancel()
                job.cancel()

    # Inside

    @property
    def alive(self) -> bool:
        """Whether there is a thread that computes."""
        return self._worker.alive

    @property
    def unfinished(self) -> int:
        """How many jobs wait or run."""
        return self.jobs.unfinished

    def queues(self) -> dict[str, int]:
        """How much waits in each queue."""
        return {"pictures": len(self._batches), "jobs": len(self.jobs)}

    async def _eye(self, model: str | None) -> tuple[str, ImageClassifier]:
        id = self.models.resolve(model, "classifier")
        eye = self.models.peek(id, "classifier")
        return id, eye or await self._on_worker(lambda: self.models.get(id, "classifier"))

    async def _ask(
        self, eye: ImageClassifier, key: Hashable, finish: Hashable, images: Images, client: str
    ) -> list[Any]:
        check_number(len(images), self.options)
        loop = asyncio.get_running_loop()
        with self._batches.arriving(client, len(images)):
            try:
                prepared = await asyncio.gather(
                    *(
                        loop.run_in_executor(self._decoders, pixels_of, eye.transform, image, self.options)
                        for image in images
                    )
                )
            except EyeselError as error:
                raise bad_input(error, NAMES) from None
            asked = [self._batches.ask(key, finish, pixels, client) for pixels in prepared]
        return await self._answers(asked)

    async def _answers(self, asked: "list[asyncio.Future[Any]]") -> list[Any]:
        wait = self.options.limits.wait
        try:
            return await asyncio.wait_for(asyncio.gather(*asked), wait)
        except EyeselError as error:
            raise bad_input(error, NAMES) from None
        except TimeoutError:
            raise ApiError(503, f"No answer came in {wait:g} seconds: send it again.", None, "timeout", 5) from None

    async def _on_worker(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.wrap_future(self._worker.call(work))
        except EyeselError as error:
            raise bad_input(error, NAMES) from None


def _checked(check: Callable[[], T]) -> T:
    try:
        return check()
    except EyeselError as error:
        raise bad_input(error, NAMES) from None


async def gone(request: Request) -> None:
    """When the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
