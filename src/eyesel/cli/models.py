from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from eyesel.cli.options import Ema, Force, Json, Offline, PredictionType, Vae, ZeroTerminalSnr, print_json
from eyesel.errors import SettingError

app = typer.Typer(
    help="What models are here, what is in one, from one format to another, and onto Inference Endpoints.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


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
    """What a checkpoint is: family, shape, size, precision, and how it is known what the network predicts; what a LoRA
    or an embedding is: its method, base, rank, trigger words, and the modules that it changes.

    Example: eyesel models show tiny
    """
    from eyesel.weights.describe import describe
    from eyesel.weights.embedding_picture import PICTURES
    from eyesel.weights.hub import BUNDLED, resolve

    if model in BUNDLED:
        paths = [resolve(model, kind=kind) for kind in ("classifier", "painter")]
    else:  # an embedding may be hidden in a picture, which is no checkpoint otherwise
        picture = Path(model).suffix.lower() in PICTURES and Path(model).is_file()
        paths = [Path(model) if picture else resolve(_located(model), offline=offline)]
    facts = [describe(path) for path in paths]
    if json:
        print_json(facts)
        return
    typer.echo("\n\n".join("\n".join(_lines(entry)) for entry in facts))


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A hub name, a folder or a file.", metavar="IN")],
    target: Annotated[Path, typer.Argument(help="The folder, or .safetensors file, to write.", metavar="OUT")],
    format: Annotated[
        Literal["diffusers", "single-file", "transformers", "timm"],
        typer.Option(help="Of what is written: the first two for Stable Diffusion, the others for classifiers."),
    ],
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; default every tensor as it is stored.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Of a folder's weight files, such as fp16.")] = None,
    vae: Vae = None,
    ema: Ema = False,
    prediction_type: PredictionType = None,
    zero_terminal_snr: ZeroTerminalSnr = None,
    force: Force = False,
    json: Json = False,
    offline: Offline = False,
) -> None:
    """Turn a single-file Stable Diffusion checkpoint into a diffusers folder, or the other way, and a classifier of any
    spelling into a folder of transformers or timm; tensor for tensor.

    Example: eyesel models convert model.safetensors model/ --format diffusers
    """
    from eyesel.weights.convert import convert
    from eyesel.weights.hub import resolve
    from eyesel.weights.painter import AS_IT_IS, Options

    options = Options(
        variant=variant,
        vae=None if vae is None else resolve(vae, offline=offline),
        ema=ema,
        prediction_type=prediction_type,
        zero_terminal_snr=zero_terminal_snr,
    )
    if format in ("transformers", "timm"):
        if options != AS_IT_IS:
            raise SettingError(f"--format {format} is for classifiers, which have no variant, vae, ema or prediction.")
        _convert_classifier(source, target, format, dtype, force, json, offline)
        return
    path = resolve(_located(source), kind="painter", offline=offline)
    done = convert(path, target, format, dtype=dtype, options=options, force=force)
    facts = {
        "output": str(target),
        "family": done.family.name,
        "prediction": done.prediction.type,
        "known from": done.prediction.rule,
    }
    if json:
        print_json(facts)
        return
    typer.echo(f"{target}: {done.family.name}, {done.prediction.type} ({done.prediction.rule})")


@app.command()
def handler(
    folder: Annotated[Path, typer.Argument(help="A folder with weights of either kind.", metavar="DIR")],
    package: Annotated[
        str | None,
        typer.Option(
            help="What pip installs as eyesel, such as git+https://..., or a wheel's address; default this version.",
            metavar="REQUIREMENT",
            show_default=False,
        ),
    ] = None,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Put a copy of eyesel into the folder, for where pip finds none.")
    ] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write the handler.py and requirements.txt with which Hugging Face Inference Endpoints serve a folder's weights.

    Example: eyesel models handler my-classifier --bundle
    """
    from eyesel.handler import write_handler

    written = write_handler(folder, package=package, bundle=bundle, force=force)
    if json:
        print_json({"output": [str(path) for path in written]})
        return
    for path in written:
        typer.echo(str(path))


def _convert_classifier(
    source: str, target: Path, format: str, dtype: str | None, force: bool, json: bool, offline: bool
) -> None:
    from eyesel.classifier import ImageClassifier

    classifier = ImageClassifier.load(source, device="cpu", precision="file", offline=offline)
    classifier.save(target, format, dtype=dtype, force=force)
    if json:
        print_json({"output": str(target), "format": format, "classes": len(classifier.labels)})
    else:
        typer.echo(f"{target}: a Vision Transformer with {len(classifier.labels)} classes, for {format}")


def _located(name: str) -> str:
    """The file of that name in the folder of models, if the environment names one; else what was typed."""
    from eyesel.weights.library import Library

    library = Library.open()
    tables = [library.checkpoints(), library.loras(), library.embeddings(), library.vaes()] if library else []
    return next((str(table[name]) for table in tables if name in table), name)


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
