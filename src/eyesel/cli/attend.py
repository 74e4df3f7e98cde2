from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from eyesel.cli.options import (
    BatchSize,
    Device,
    ImageSize,
    Json,
    Model,
    Offline,
    Precision,
    batches,
    print_json,
    progress,
    read_image_size,
)

if TYPE_CHECKING:
    from eyesel.attention import Attention


def attend(
    images: Annotated[list[str], typer.Argument(help="Pictures, folders or globs.", metavar="IMAGE...")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The overlay as a PNG, JPEG or WebP file, or the map as a .npy array. Of several pictures, each gets "
            "its own file: maps.png becomes maps-fox.png.",
        ),
    ],
    model: Model = "tiny",
    method: Annotated[
        Literal["rollout", "attention", "gradient-rollout", "gradcam", "norms", "pca"],
        typer.Option(
            help="Attention through all layers, or of one; what speaks for a class in it; Grad-CAM; the lengths of the "
            "patch vectors; their principal components as colours."
        ),
    ] = "rollout",
    layer: Annotated[
        str | None,
        typer.Option(help="Counted from 0; default the last. `each` makes a strip of all.", metavar="NUMBER|each"),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="One head; default all, fused. `each` makes a sheet of all.", metavar="NUMBER|each"),
    ] = None,
    fusion: Annotated[Literal["mean", "max", "min"], typer.Option(help="How heads are fused.")] = "mean",
    discard_ratio: Annotated[
        float | None,
        typer.Option(help="Share of the weakest links to leave out; default 0.9 for rollouts, else 0."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="The label, or its number, that gradient-rollout and gradcam look for; default what the model sees.",
        ),
    ] = None,
    mask_outliers: Annotated[
        bool, typer.Option("--mask-outliers", help="Fill patches of high norm from their neighbours.")
    ] = False,
    outlier_ratio: Annotated[float, typer.Option(help="What is a high norm, in medians of the picture.")] = 2.0,
    opacity: Annotated[
        float | None, typer.Option(help="Of the heat map over the picture, 0 to 1; default 0.5, for pca 1.")
    ] = None,
    image_size: ImageSize = None,
    json: Json = False,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    precision: Precision = "auto",
    offline: Offline = False,
) -> None:
    """Show what the classifier looked at, as heat maps over pictures.

    Example: eyesel attend fox.png -o attention.png --method gradient-rollout --class fox
    """
    from eyesel.attention import WRITABLE_MAPS
    from eyesel.classifier import ImageClassifier
    from eyesel.images import check_writable, find_images

    files = find_images(images)
    alone = len(images) == 1 and Path(images[0]).expanduser().is_file()
    outputs = [output] if alone else _names(output, files)
    for path in outputs:
        check_writable(path, WRITABLE_MAPS)
    size = read_image_size(image_size)
    classifier = ImageClassifier.load(model, image_size=size, device=device, precision=precision, offline=offline)
    done = []
    together = len(files) if method == "pca" else batch_size  # pictures share their colours if they are asked together
    with progress("looking", len(files)) as advance:
        for batch in batches(list(zip(files, outputs, strict=True)), together):
            answers = classifier.attention(
                [file for file, _ in batch],
                method,
                _number("layer", layer),
                _number("head", head),
                fusion,
                discard_ratio,
                target,
                mask_outliers,
                outlier_ratio,
                batch_size,
            )
            for (file, path), attention in zip(batch, answers, strict=True):
                attention.save(path, opacity)
                done.append(_entry(file, path, attention, numbers=json))
                advance()
    if json:
        print_json(done[0] if alone else done)
        return
    for entry in done:
        rows, columns = entry["grid"]
        of_class = f" of {entry['class']}" if entry["class"] else ""
        outliers = f", outliers: {entry['outliers']}" if entry["outliers"] is not None else ""
        typer.echo(f"{entry['output']}: {method}{of_class} on {rows} x {columns} patches{outliers}")


def _entry(file: Path, output: Path, attention: "Attention", numbers: bool) -> dict[str, Any]:
    rows_and_columns = attention.heat.shape[-3:-1] if attention.method == "pca" else attention.heat.shape[-2:]
    return {
        "file": str(file),
        "output": str(output),
        "class": attention.target,
        "grid": list(rows_and_columns),
        "outliers": None if attention.outliers is None else int(attention.outliers.sum()),
        **({"heat": attention.heat.tolist()} if numbers else {}),
    }


def _names(output: Path, files: list[Path]) -> list[Path]:
    """maps.png -> maps-fox.png for fox.jpg, and maps-fox-2.png for the next fox."""
    names: dict[Path, None] = {}
    for file in files:
        wanted = [f"{output.stem}-{file.stem}", *(f"{output.stem}-{file.stem}-{i}" for i in range(2, len(files) + 1))]
        names[next(path for stem in wanted if (path := output.with_stem(stem)) not in names)] = None
    return list(names)


def _number(name: str, text: str | None) -> int | Literal["each"] | None:
    from eyesel.errors import SettingError

    if text is None:
        return None
    if text == "each":
        return "each"
    try:
        return int(text)
    except ValueError:
        raise SettingError(f"--{name} {text!r} is neither a number nor 'each'.") from None
