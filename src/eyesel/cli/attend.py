from pathlib import Path
from typing import Annotated, Literal

import typer

from eyesel.cli.options import Device, Json, Model, Offline, Precision, print_json


def attend(
    image: Annotated[str, typer.Argument(help="A picture.", metavar="IMAGE")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The overlay: a PNG, JPEG or WebP file.")],
    model: Model = "tiny",
    method: Annotated[
        Literal["rollout", "attention"], typer.Option(help="Attention through all layers, or of one layer.")
    ] = "rollout",
    layer: Annotated[
        int | None, typer.Option(help="The last layer of the rollout, or the layer to show; default the last.")
    ] = None,
    head: Annotated[int | None, typer.Option(help="One head; default all of them, fused.")] = None,
    fusion: Annotated[Literal["mean", "max", "min"], typer.Option(help="How heads are fused.")] = "mean",
    discard_ratio: Annotated[float, typer.Option(help="Share of the weakest links to leave out, 0 to 1.")] = 0.0,
    opacity: Annotated[float, typer.Option(help="Of the heat map over the picture.")] = 0.5,
    json: Json = False,
    device: Device = "auto",
    precision: Precision = "auto",
    offline: Offline = False,
) -> None:
    """Show what the classifier looked at, as a heat map over the picture.

    Example: eyesel attend fox.png -o attention.png --method rollout
    """
    from eyesel.classifier import ImageClassifier
    from eyesel.images import WRITABLE, check_writable, open_image, save_image

    check_writable(output, WRITABLE)
    picture = open_image(image)
    classifier = ImageClassifier.load(model, device=device, precision=precision, offline=offline)
    attention = classifier.attention(picture, method, layer, head, fusion, discard_ratio)
    save_image(attention.overlay(opacity), output)
    rows, columns = attention.heat.shape
    if json:
        print_json({"output": str(output), "grid": [rows, columns], "heat": attention.heat.tolist()})
    else:
        typer.echo(f"{output}: {method} on {rows} x {columns} patches")
