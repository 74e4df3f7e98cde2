from pathlib import Path
from typing import Annotated, Literal

import typer

from eyesel.cli.options import BatchSize, Device, Json, Model, Offline, Precision, batches, print_json, progress


def embed(
    images: Annotated[list[str], typer.Argument(help="Pictures, folders or globs.", metavar="IMAGE...")],
    output: Annotated[Path, typer.Option("--output", "-o", help="An .npz file: arrays `files` and `embeddings`.")],
    model: Model = "tiny",
    pool: Annotated[
        Literal["cls", "mean", "none"], typer.Option(help="Class token, mean of the patches, or all tokens.")
    ] = "cls",
    layer: Annotated[
        int, typer.Option(help="0 is the patch embeddings, -1 the last layer behind the final norm.")
    ] = -1,
    json: Json = False,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    precision: Precision = "auto",
    offline: Offline = False,
) -> None:
    """Turn pictures into vectors, stored with their file names.

    Example: eyesel embed photos/ -o photos.npz --pool mean
    """
    from eyesel.images import check_writable, find_images, written_whole

    check_writable(output, [".npz"])
    files = find_images(images)

    import numpy as np

    from eyesel.classifier import ImageClassifier

    classifier = ImageClassifier.load(model, device=device, precision=precision, offline=offline)
    parts = []
    with progress("embedding", len(files)) as advance:
        for batch in batches(files, batch_size):
            parts.append(classifier.embed(batch, pool, layer, batch_size))
            for _ in batch:
                advance()
    embeddings = np.concatenate(parts)

    with written_whole(output, [".npz"]) as trial, trial.open("xb") as file:
        np.savez(file, files=np.array([str(path) for path in files]), embeddings=embeddings)
    if json:
        print_json({"output": str(output), "files": len(files), "shape": list(embeddings.shape)})
    else:
        typer.echo(f"{output}: {' x '.join(map(str, embeddings.shape))} float32")
