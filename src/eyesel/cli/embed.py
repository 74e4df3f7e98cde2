from pathlib import Path
from typing import Annotated, Literal

import typer

from eyesel.cli.options import BatchSize, Device, Json, Model, Offline, Precision, print_json, progress


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
    from eyesel.images import check_writable, find_images

    check_writable(output, [".npz"])
    files = find_images(images)

    import numpy as np

    from eyesel.classifier import ImageClassifier

    classifier = ImageClassifier.load(model, device=device, precision=precision, offline=offline)
    parts = []
    with progress("embedding", len(files)) as advance:
        for start in range(0, len(files), batch_size):
            batch = list(files[start : start + batch_size])
            parts.append(classifier.embed(batch, pool, layer, batch_size))
            for _ in batch:
                advance()
    embeddings = np.concatenate(parts)

    unfinished = output.with_name(f".{output.name}.unfinished")
    try:
        with unfinished.open("wb") as f:
            np.savez(f, files=np.array([str(file) for file in files]), embeddings=embeddings)
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)
    if json:
        print_json({"output": str(output), "files": len(files), "shape": list(embeddings.shape)})
    else:
        typer.echo(f"{output}: {' x '.join(map(str, embeddings.shape))} float32")
