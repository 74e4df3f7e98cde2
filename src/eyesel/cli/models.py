from typing import Annotated, Any

import typer

from eyesel.cli.options import Json, Offline, print_json

app = typer.Typer(help="What models are here, and what is in one.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_(json: Json = False) -> None:
    """The bundled models, and those in the hub's cache on this machine.

    Example: eyesel models list
    """
    from eyesel.weights.hub import list_models

    models = list_models()
    if json:
        print_json(
            [{"name": m.name, "kind": m.kind, "path": str(m.path), "bytes": m.size} for m in models],
        )
        return
    width = max((len(m.name) for m in models), default=0)
    for m in models:
        typer.echo(f"{m.name:<{width}}  {m.kind:<10}  {_bytes(m.size):>9}  {m.path}")


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="tiny, a hub name, a folder or a file.", metavar="MODEL")],
    json: Json = False,
    offline: Offline = False,
) -> None:
    """What a checkpoint is: family, shape, size, precision. Reads no weights.

    Example: eyesel models show tiny
    """
    from eyesel.weights.describe import describe
    from eyesel.weights.hub import BUNDLED, resolve

    paths = (
        [resolve(model, kind=kind) for kind in ("classifier", "painter")]
        if model in BUNDLED
        else [resolve(model, offline=offline)]
    )
    facts = [describe(path) for path in paths]
    if json:
        print_json(facts)
        return
    typer.echo("\n\n".join("\n".join(_lines(entry)) for entry in facts))


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in facts.items():
        if key == "parts":
            for part, inner in value.items():
                lines += [f"{indent}{part}", *_lines(inner, indent + "  ")]
        else:
            lines.append(f"{indent}{key + ':':<16} {_text(key, value)}")
    return lines


def _text(key: str, value: Any) -> str:
    if key == "bytes":
        return _bytes(value)
    if key == "parameters":
        return f"{value:,}"
    if isinstance(value, list):
        shown = ", ".join(map(str, value[:8]))
        return shown if len(value) <= 8 else f"{shown}, ... ({len(value)})"
    return str(value)


def _bytes(count: int) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.1f} GB"
