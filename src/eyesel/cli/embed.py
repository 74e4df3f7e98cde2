from pathlib import Path
from typing import Annotated, Literal

import typer

from eyesel.cli.options import (
    BatchSize,
    Device,
    Force,
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


def embed(
    images: Annotated[list[str], typer.Argument(help="Pictures, folders or globs.", metavar="IMAGE...")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help=".npz, .parquet or .safetensors: the vectors and the names of their files."
        ),
    ],
    model: Model = "tiny",
    pool: Annotated[
        Literal["cls", "mean", "none", "grid"],
        typer.Option(help="Class token, mean of the patches, all tokens, or the patches as a grid."),
    ] = "cls",
    layer: Annotated[
        list[int] | None,
        typer.Option(
            help="0 is the patch embeddings, -1 the last layer behind the final norm; several by repeating it.",
            show_default="-1",
        ),
    ] = None,
    final_norm: Annotated[
        bool | None,
        typer.Option(
            "--final-norm/--no-final-norm",
            help="Every layer behind the final norm, or none; default only layer -1.",
            show_default=False,
        ),
    ] = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Vectors of length 1.")] = False,
    image_size: ImageSize = None,
    force: Force = False,
    json: Json = False,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    precision: Precision = "auto",
    offline: Offline = False,
) -> None:
    """Turn pictures into vectors, stored with their file names.

    Example: eyesel embed photos/ -o photos.npz --pool mean
    """
    from eyesel.embeddings import check_target, write_embeddings
    from eyesel.images import find_images

    check_target(output, force)
    files, size = find_images(images), read_image_size(image_size)

    import numpy as np

    from eyesel.classifier import ImageClassifier

    classifier = ImageClassifier.load(model, image_size=size, device=device, precision=precision, offline=offline)
    layers = -1 if layer is None else layer[0] if len(layer) == 1 else layer
    parts = []
    with progress("embedding", len(files)) as advance:
        for batch in batches(files, batch_size):
            parts.append(classifier.embed(batch, pool, layers, batch_size, final_norm=final_norm, normalize=normalize))
            for _ in batch:
                advance()
    embeddings = np.concatenate(parts)
    write_embeddings(output, [str(file) for file in files], embeddings, force)
    if json:
        print_json({"output": str(output), "files": len(files), "shape": list(embeddings.shape)})
    else:
        typer.echo(f"{output}: {' x '.join(map(str, embeddings.shape))} float32")
