from typing import TYPE_CHECKING, Annotated

import typer

from eyesel.cli.options import Json, print_json

if TYPE_CHECKING:
    from eyesel.infotext import Record


def show(
    pictures: Annotated[list[str], typer.Argument(help="PNG, JPEG or WebP files.", metavar="PICTURE...")],
    json: Json = False,
) -> None:
    """Show how pictures were painted: by eyesel, AUTOMATIC1111, Forge, stable-diffusion.cpp, ComfyUI, InvokeAI, ...

    Example: eyesel show fox.png
    """
    from eyesel.errors import ImageError
    from eyesel.picture import read_record

    records, problems = [], []
    for path in pictures:
        try:
            records.append((path, read_record(path)))
        except ImageError as error:  # the others are shown all the same
            problems.append(error)
    if json and records:
        print_json([{"file": path, **vars(record)} for path, record in records])
    elif records:
        typer.echo("\n\n".join("\n".join(_lines(path, record)) for path, record in records))
    for problem in problems:
        typer.echo(f"eyesel: {problem}", err=True)
    if problems:
        raise typer.Exit(2)


def _lines(path: str, record: "Record") -> list[str]:
    from eyesel.infotext import printable
    from eyesel.infotext.rows import is_default

    settings = {name: value for name, value in record.settings.items() if not is_default(name, value)}
    settings.pop("version", None)
    if "width" in settings and "height" in settings:
        settings["size"] = f"{settings.pop('width')}x{settings.pop('height')}"
    shown = {name.replace("_", " "): _text(value) for name, value in settings.items()}
    shown |= {f"({name})": value for name, value in record.unknown.items()}
    shown |= {f"{name}, as edited": _text(value) for name, value in record.otherwise.items()}
    width = max(map(len, shown), default=0) + 1
    lines = [f"{path}: {record.program}"]
    for name, value in shown.items():
        first, *others = printable(value).split("\n")
        lines += [f"{printable(name) + ':':<{width}} {first}", *(" " * (width + 1) + line for line in others)]
    return lines


def _text(value: object) -> str:
    from eyesel.infotext.rows import exact

    if isinstance(value, float):
        return exact(value)
    return ", ".join(map(_text, value)) if isinstance(value, tuple) else str(value)
