"""What every tab works with: the engine, its models, and jobs that are watched until they end."""

import html
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from eyesel.classifier import Prediction
from eyesel.errors import EyeselError, SettingError
from eyesel.images.decode import Mode
from eyesel.search.index import Index
from eyesel.serve.access import client_of
from eyesel.serve.engine import Engine
from eyesel.serve.errors import ApiError
from eyesel.serve.intake import picture
from eyesel.serve.jobs import Job, Task
from eyesel.serve.options import ServerOptions
from eyesel.serve.pool import ModelCard
from eyesel.weights.hub import Kind

BETWEEN = 0.25  # seconds between two looks at a job


@dataclass(frozen=True)
class Look:
    """How a job stands: its line on the page, and what the picture looks like so far, if there is news of it."""

    job: Job
    line: str
    preview: Image.Image | None = None


@dataclass(frozen=True)
class Studio:
    """Nothing of a visitor is kept here; that is in the state of the visitor's page."""

    engine: Engine
    options: ServerOptions
    index: Index | None = None

    def cards(self, kind: Kind) -> list[ModelCard]:
        return [card for card in self.engine.models.cards() if card.kind == kind]

    @property
    def tiny(self) -> bool:
        """Whether the painter is the bundled one, for which there are examples of its own, and small sizes."""
        return [card.name for card in self.cards("painter")][:1] == ["tiny"]

    def models(self, kind: Kind) -> gr.Dropdown:
        """The choice of a model; the first is the default."""
        ids = [card.id for card in self.cards(kind)]
        return gr.Dropdown(ids, value=ids[0] if ids else None, label="Model", interactive=len(ids) > 1)

    async def opened(self, file: str, field: str = "image", mode: Mode = "RGB") -> Image.Image:
        """The picture in a file that a visitor has given, as large as the server takes them. Raises `ApiError`."""
        return await picture(Path(file).read_bytes(), self.options, field, mode)

    async def painting(
        self, request: gr.Request, task: Task, settings: dict[str, Any], images: dict[str, Any], n: int, model: str
    ) -> AsyncIterator[Look]:
        """A job from its order to its end, `done` or `cancelled`; that, too, if nobody looks any more.

        Raises `ApiError` where it was refused or failed.
        """
        job = self.engine.submit(task, settings, images, n, model, client(request), previews=8)
        started = last = time.monotonic()
        try:
            yield Look(job, _line(job, 0))
            async for event in job.updates(previews=True):
                now = time.monotonic()
                if job.ended or now - last < BETWEEN:
                    continue
                last = now
                yield Look(job, _line(job, now - started), event.preview)
        finally:
            job.cancel()
        if job.state == "cancelled":
            yield Look(job, line("Cancelled."))
            return
        await job.result()
        yield Look(job, line(f"Done in {time.monotonic() - started:.1f} s"))


def line(text: str, share: float | None = None) -> str:
    """HTML of a line of text over a bar that is filled up to `share`."""
    if share is None:
        return f'<div class="line" role="status"><p>{text}</p></div>'
    percent = round(100 * share)
    bar = f'<div class="track" role="progressbar" aria-valuenow="{percent}"><div style="width:{percent}%"></div></div>'
    return f'<div class="line"><p>{text}</p>{bar}</div>'


def bars(found: Sequence[Prediction]) -> str:
    """HTML of labels with their scores; a bar is a share of 1, or of the largest score above that."""
    longest, rows = max(*(each.score for each in found), 1.0), []
    for each in found:
        width = 100 * max(each.score, 0) / longest
        bar = f'<div class="bar"><div style="width:{width:.1f}%"></div></div>'
        rows.append(f"<dt>{html.escape(each.label)}</dt>{bar}<dd>{_score(each.score)}</dd>")
    return f'<dl class="labels">{"".join(rows)}</dl>'


def _score(score: float) -> str:
    return f"{score:.1%}" if 0 <= score <= 1 else f"{score:.4g}"


def whole(text: str, name: str) -> int | None:
    """A number that was typed into a field; None of an empty one."""
    if not text.strip():
        return None
    try:
        return int(text)
    except ValueError:
        raise SettingError(f"{name} is {text.strip()[:40]!r}; write a whole number, or leave it empty.") from None


def sides(text: str) -> tuple[int, int] | None:
    """(width, height) of a size that was typed, such as 512x768 or 512; None of an empty one."""
    if not text.strip():
        return None
    found = re.fullmatch(r"\s*(\d{1,5})(?:\s*[x×]\s*(\d{1,5}))?\s*", text.lower())
    if found is None:
        raise SettingError(f"size is {text.strip()[:40]!r}; write such as 512x768, or leave it empty.")
    return int(found[1]), int(found[2] or found[1])


def in_sight(selector: str) -> str:
    """JavaScript that scrolls to where something is about to happen, if that is out of sight, as on a phone."""
    return f"() => document.querySelector('{selector}').scrollIntoView({{block: 'nearest', behavior: 'smooth'}})"


def _line(job: Job, seconds: float) -> str:
    if job.position is not None:
        return line("Next in the queue" if job.position == 1 else f"Number {job.position} in the queue", 0)
    if not job.steps:
        return line("Getting ready", 0)
    return line(f"Step {job.step} of {job.steps} · {seconds:.0f} s", job.progress)


def client(request: gr.Request) -> str:
    """The name by which the engine is fair to a visitor."""
    return "" if request.request is None else client_of(request.request.scope)


def stop(engine: Engine) -> Callable[[str | None], str]:
    """What a button to cancel does with the id of the job that runs."""

    def cancelled(id: str | None) -> str:
        if id is None or not engine.jobs.cancel(id):
            return line("There is nothing to cancel.")
        return line("Cancelling")

    return cancelled


def note(text: str) -> None:
    """Tell the visitor something that is no error; what comes from files is shown, not obeyed."""
    gr.Warning(html.escape(text, quote=False), title="Note")


@contextmanager
def sentences() -> Iterator[None]:
    """What cannot be done is told on the page, in its sentence."""
    try:
        yield
    except (EyeselError, ApiError) as error:
        text = html.escape(str(error), quote=False)
        raise gr.Error(text[:1].upper() + text[1:], title="Not done", print_exception=False, duration=12) from None
