"""The options that several commands share, and how they print."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Annotated, Any, TypeVar

import typer

from eyesel.errors import SettingError

T = TypeVar("T")

Images = Annotated[
    list[str],
    typer.Argument(
        help="Pictures, folders, globs, tar archives (- for one over standard input), or @FILE, a list of them.",
        metavar="IMAGE...",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="`tiny` (bundled), a hub name owner/name[@revision], a folder, or a file of weights.",
        show_default=True,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, or file (as stored).")]
Vae = Annotated[str | None, typer.Option(help="Another autoencoder: its file or folder.", metavar="FILE")]
Ema = Annotated[bool, typer.Option("--ema", help="Take the averaged weights of a single file.")]
PredictionType = Annotated[str | None, typer.Option(help="epsilon or v_prediction; default what the checkpoint says.")]
ZeroTerminalSnr = Annotated[
    bool | None,
    typer.Option(
        "--zero-terminal-snr/--no-zero-terminal-snr",
        help="Trained up to pure noise or not; default what the checkpoint says.",
        show_default=False,
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network: only what is already here.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ImageSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="Of the pictures, in pixels: 384, or WIDTHxHEIGHT; default the checkpoint's own."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
BatchSize = Annotated[int, typer.Option(help="Pictures that go through the network together.")]

Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit code 1 if a picture could not be read.")]
Workers = Annotated[
    int | None, typer.Option(help="Threads that decode ahead; default one a core, at most 8.", show_default=False)
]
Draft = Annotated[
    bool,
    typer.Option(
        "--draft",
        help="Decode large JPEGs at 1/2, 1/4 or 1/8, four times what the network reads at least: faster, and within "
        "4 of 255 of what it reads otherwise.",
    ),
]


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def read_image_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of "384" or "512x384"."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and len(side) < 10 for side in sides):
        raise SettingError(f"--image-size {text!r} is no size; write for example 384, or 512x384 for WIDTHxHEIGHT.")
    return int(sides[-1]), int(sides[0])


def batches(files: Iterable[T], size: int) -> Iterator[list[T]]:
    """The files, or what is known of them, `size` at a time."""
    if size < 1:
        raise SettingError(f"--batch-size is {size}; it must be at least 1.")
    iterator = iter(files)
    while batch := list(islice(iterator, size)):
        yield batch


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, if a person is looking; call what this yields once a piece of work, or with a share."""
    if not sys.stderr.isatty():
        yield lambda share=1.0: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda share=1.0: bar.advance(task, share)
