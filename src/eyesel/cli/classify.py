from contextlib import ExitStack
from json import dumps
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from eyesel.cli.many import Count, counted, finished, readable
from eyesel.cli.options import (
    BatchSize,
    Device,
    Draft,
    Force,
    Images,
    ImageSize,
    Json,
    Model,
    Offline,
    Precision,
    Resume,
    Strict,
    Workers,
    batches,
    read_image_size,
)

if TYPE_CHECKING:
    from eyesel.classifier import Prediction
    from eyesel.stream import Answer

Row = dict[str, Any]


def classify(
    images: Images,
    model: Model = "tiny",
    top_k: Annotated[int, typer.Option(help="How many labels for each picture.")] = 5,
    function_to_apply: Annotated[
        Literal["softmax", "sigmoid", "none"] | None,
        typer.Option(help="What makes scores of the network's numbers; default what the checkpoint was trained for."),
    ] = None,
    image_size: ImageSize = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=".jsonl, .csv or .parquet: a row for each picture.")
    ] = None,
    resume: Resume = False,
    force: Force = False,
    strict: Strict = False,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="A picture of the pictures, with labels and scores; of many, several: sheet-1.png and so on."
        ),
    ] = None,
    sheet_order: Annotated[
        Literal["name", "worst", "best"],
        typer.Option(help="worst: first what is not what its folder is called, then from the lowest score on."),
    ] = "name",
    json: Json = False,
    batch_size: BatchSize = 8,
    workers: Workers = None,
    draft: Draft = False,
    device: Device = "auto",
    precision: Precision = "auto",
    offline: Offline = False,
) -> None:
    """Say what is in a picture, or in each of many: labels and scores, best first.

    Example: eyesel classify fox.png --top-k 3 --json
    """
    from eyesel.classifier import ImageClassifier
    from eyesel.contact import SIDE, ContactSheet, check_sheet
    from eyesel.errors import SettingError
    from eyesel.images import each_source, find_sources
    from eyesel.journal import Journal
    from eyesel.predictions import check_table, write_predictions

    if resume and (output is None or sheet is not None):
        raise SettingError("--resume goes on with an --output file; a --sheet shows one run from its start to its end.")
    if output is not None and finished(output := check_table(output), resume, force):
        return
    if sheet is not None:
        sheet = check_sheet(sheet, force)
    found, size = find_sources(images), read_image_size(image_size)
    classifier = ImageClassifier.load(model, image_size=size, device=device, precision=precision, offline=offline)
    function = function_to_apply or classifier.default_function
    settings = {
        "command": "classify",
        "images": images,
        "model": model,
        "fingerprint": classifier.fingerprint(),
        "top_k": top_k,
        "function": function,
        "draft": draft,
    }
    with ExitStack() as stack:
        journal = None if output is None else stack.enter_context(Journal(output, settings, resume))
        screen = _Screen(json, raw=function == "none")
        contact = stack.enter_context(ContactSheet(classifier.labels, function != "none")) if sheet else None
        sources = each_source(found)
        answers = classifier.classify_many(
            sources if journal is None else journal.remaining(sources),
            top_k,
            batch_size,
            function_to_apply,
            workers=workers,
            draft=draft,
            thumbnail=SIDE if sheet else None,
        )
        count = Count(() if journal is None else journal.rows())
        with counted("classifying", found, journal) as advance:
            for batch in batches(readable(answers, images, found), batch_size):
                rows = [_row(answer) for answer in batch]
                (screen if journal is None else journal).append(rows)
                for answer, row in zip(batch, rows, strict=True):
                    count.add(row)
                    if contact is not None and answer.value and answer.thumbnail:
                        contact.add(answer.name, answer.value[0].label, answer.value[0].score, answer.thumbnail)
                    advance()
        if journal is None:
            screen.close()
        elif output is not None:
            write_predictions(output, journal.rows(), min(top_k, len(classifier.labels)))
            count.say(output, journal.rows(), json)
            journal.remove()
        if contact is not None and sheet is not None and not contact.empty:
            pages = contact.save(sheet, sheet_order, force)
            if not json:
                typer.echo(f"{pages[0]}: a sheet" if len(pages) == 1 else f"{pages[0]} to {pages[-1].name}: sheets")
    count.report(strict)


def _row(answer: "Answer[list[Prediction]]") -> Row:
    if answer.value is None:
        return {"file": answer.name, "error": answer.error}
    return {"file": answer.name, "predictions": [{"label": p.label, "score": p.score} for p in answer.value]}


class _Screen:
    """Prints rows as they come, as text or as one list of JSON; nothing before the first."""

    def __init__(self, json: bool, raw: bool) -> None:
        self._json, self._raw, self._begun = json, raw, False

    def append(self, rows: list[Row]) -> None:
        for row in rows:
            if self._json:
                entry = indent(dumps(row, indent=2, allow_nan=False), "  ")
                typer.echo(f",\n{entry}" if self._begun else f"[\n{entry}", nl=False)
            elif "predictions" in row:
                typer.echo(row["file"])
                for p in row["predictions"]:
                    score = f"{p['score']:10.4f}" if self._raw else f"{p['score']:7.2%}"
                    typer.echo(f"  {score}  {p['label']}")
            self._begun = True

    def close(self) -> None:
        if self._json:
            typer.echo("\n]")
