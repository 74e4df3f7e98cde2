"""What `classify` and `embed` share: many pictures, some of which cannot be read, and runs that are stopped."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from eyesel.cli.options import print_json, progress

if TYPE_CHECKING:
    from eyesel.images import Found
    from eyesel.journal import Journal
    from eyesel.stream import Answer

T = TypeVar("T")

FEW = 20  # what could not be read, listed at the end
INTERRUPTED = 130  # the exit code of a program that was stopped by Ctrl-C


def finished(output: Path, resume: bool, force: bool) -> bool:
    """Whether nothing is left to do, which is said."""
    from eyesel.journal import is_finished

    if not is_finished(output, resume, force):
        return False
    typer.echo(f"eyesel: {output} is finished: there is nothing to go on with (--force makes it anew).", err=True)
    return True


def readable(answers: "Iterable[Answer[T]]", images: Sequence[str], found: "Found") -> "Iterator[Answer[T]]":
    """The answers; but a file named alone that cannot be read is bad input, and no picture among others."""
    from eyesel.errors import ImageError

    alone = len(images) == 1 and (images[0] == "-" or Path(images[0]).expanduser().is_file())
    first = next(iter(found))
    name = str(first) if isinstance(first, Path) else first.name
    for number, answer in enumerate(answers):
        if alone and number == 0 and answer.error is not None and answer.name == name:
            raise ImageError(answer.error)
        yield answer


@contextmanager
def counted(what: str, found: "Found", journal: "Journal | None") -> Iterator[Callable[..., None]]:
    """A progress bar over all pictures, of which the journal knows some already; a word about it after Ctrl-C."""
    try:
        with progress(what, None if found.has_archives else len(found)) as advance:
            advance(0 if journal is None else journal.count)
            yield advance
    except KeyboardInterrupt:
        kept = f" {journal.count} pictures are in {journal.path}: go on with --resume." if journal else ""
        typer.echo(f"eyesel: interrupted;{kept}" if kept else "eyesel: interrupted.", err=True)
        raise typer.Exit(INTERRUPTED) from None


class Count:
    """How many pictures there were, and what could not be read."""

    def __init__(self, rows: Iterable[dict[str, Any]] = ()) -> None:
        """`rows` are those of an earlier run."""
        self.total, self.failed, self.first = 0, 0, list[str]()
        for row in rows:
            self.add(row)

    def add(self, row: dict[str, Any]) -> None:
        self.total += 1
        if "error" in row:
            self.failed += 1
            self.first += [row["error"]] if self.failed <= FEW else []

    def say(self, output: Path, rows: Iterable[dict[str, Any]], json: bool, **facts: Any) -> None:
        """What has been written: a line, or JSON with all that could not be read."""
        if json:
            failed = [row for row in rows if "error" in row]
            print_json({"output": str(output), "files": self.total - self.failed, **facts, "failed": failed})
        else:
            shape = " x ".join(map(str, facts["shape"])) + " float32" if "shape" in facts else f"{self.total} pictures"
            typer.echo(f"{output}: {shape}")

    def report(self, strict: bool) -> None:
        """Name what could not be read, at the end; `strict` makes it exit code 1."""
        if not self.failed:
            return
        lines = [f"eyesel: {self.failed} of {self.total} pictures could not be read:"]
        lines += [f"  {error}" for error in self.first]
        lines += [f"  and {self.failed - FEW} more"] if self.failed > FEW else []
        typer.echo("\n".join(lines), err=True)
        if strict:
            raise typer.Exit(1)
