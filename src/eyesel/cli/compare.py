from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eyesel.cli.options import BatchSize, Device, Force, Json, Offline, Precision, print_json, progress
from eyesel.errors import OutputError, SettingError

if TYPE_CHECKING:
    from eyesel.compare.comparison import Comparison


def compare(
    first: Annotated[str, typer.Argument(help="tiny, a hub name, a folder or a file.", metavar="A")],
    second: Annotated[str, typer.Argument(help="Another one.", metavar="B")],
    data: Annotated[
        Path | None, typer.Option(help="For classifiers: a folder of pictures in folders named by their labels.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="For painters: a text file, each line a prompt, a tab and the label to be seen.")
    ] = None,
    judge: Annotated[str, typer.Option(help="The classifier that looks at what painters paint.")] = "tiny",
    kind: Annotated[
        str | None,
        typer.Option(help="Which half of `tiny` is meant: classifier, painter, or one for each: classifier,painter."),
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds for timing and trying out each model.")] = 120,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    json: Json = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write it to a .md or .json file.")] = None,
    force: Force = False,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    precision: Precision = "auto",
    offline: Offline = False,
) -> None:
    """Two models side by side: what they are, what they can do (each capability is tried), speed and memory on this
    machine, how well they do on your pictures, and a verdict that follows from the figures.

    Example: eyesel compare tiny model/ --data photos/
    """
    from eyesel.compare import judging
    from eyesel.compare.comparison import Comparison, Model
    from eyesel.compare.facts import both
    from eyesel.compare.measure import STAGES, machine, measure
    from eyesel.compare.report import as_json
    from eyesel.compare.report import markdown as as_markdown

    _check(output, force, time_limit, batch_size)
    facts = both((first, second), kind, offline)
    loading = judging.Loading(device, precision)
    qualities, labels, notes = judging.classifiers(facts, data, batch_size, loading, progress)
    seen, more = judging.painters(facts, prompts, judge, batch_size, loading, progress)
    with progress("timing and trying out", 2 * STAGES) as advance:
        measured = measure(facts, device, precision, time_limit, advance)
    models = [Model(*each) for each in zip(facts, measured, qualities, seen, strict=True)]
    comparison = Comparison(models[0], models[1], labels, (*notes, *more), machine())
    if output is not None:
        _write(output, comparison)
    if json:
        print_json(as_json(comparison))
    elif markdown:
        typer.echo(as_markdown(comparison), nl=False)
    else:
        _print(comparison)


def _check(output: Path | None, force: bool, time_limit: float, batch_size: int) -> None:
    from eyesel.images import check_writable

    if output is not None:
        check_writable(output, (".md", ".json"))
        if output.exists() and not force:
            raise OutputError(f"{output} exists already: choose another name, or allow it to be replaced (--force).")
    if not time_limit > 0:
        raise SettingError(f"--time-limit is {time_limit:g}; it must be above 0 seconds.")
    if batch_size < 1:
        raise SettingError(f"--batch-size is {batch_size}; it must be at least 1.")


def _write(output: Path, comparison: "Comparison") -> None:
    import json

    from eyesel.compare.report import as_json, markdown
    from eyesel.images import written_whole

    text = json.dumps(as_json(comparison), indent=2) if output.suffix.lower() == ".json" else markdown(comparison)
    with written_whole(output) as trial:
        trial.write_text(text, encoding="utf-8")


def _print(comparison: "Comparison") -> None:
    from rich.console import Console
    from rich.table import Table

    from eyesel.compare.report import MOST_CLASSES, class_rows, rows

    console = Console(highlight=False, markup=False)
    table = Table("", *comparison.names())
    for row in rows(comparison):
        table.add_row(*row)
    console.print(table)
    if classes := class_rows(comparison):
        table = Table("label", "pictures", *comparison.names(), title="where they differ most")
        for line in classes[:MOST_CLASSES]:
            table.add_row(*line)
        console.print(table)
    for note in comparison.notes:
        console.print(f"note: {note}")
    console.print(f"measured on {comparison.machine}")
    console.print(comparison.verdict())
