from pathlib import Path
from typing import Annotated, Literal

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


def embed(
    images: Images,
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
    resume: Resume = False,
    force: Force = False,
    strict: Strict = False,
    json: Json = False,
    batch_size: BatchSize = 8,
    workers: Workers = None,
    draft: Draft = False,
    device: Device = "auto",
    precision: Precision = "auto",
    offline: Offline = False,
) -> None:
    """Turn pictures into vectors, stored with their file names.

    Example: eyesel embed photos/ -o photos.npz --pool mean
    """
    from PIL import Image

    from eyesel.classifier import ImageClassifier
    from eyesel.embeddings import check_target, write_embeddings
    from eyesel.images import each_source, find_sources
    from eyesel.journal import Journal

    if finished(output := check_target(output, force=True), resume, force):
        return
    found, size = find_sources(images), read_image_size(image_size)
    classifier = ImageClassifier.load(model, image_size=size, device=device, precision=precision, offline=offline)
    layers = -1 if layer is None else layer[0] if len(layer) == 1 else layer
    blank = Image.new("RGB", classifier.model.config.image_size[::-1])
    shape = classifier.embed(blank, pool, layers, final_norm=final_norm, normalize=normalize).shape
    settings = {
        "command": "embed",
        "images": images,
        "model": model,
        "fingerprint": classifier.fingerprint(),
        "pool": pool,
        "layer": layers,
        "final_norm": final_norm,
        "normalize": normalize,
        "draft": draft,
    }
    with Journal(output, settings, resume, shape) as journal:
        answers = classifier.embed_many(
            journal.remaining(each_source(found)),
            pool,
            layers,
            batch_size,
            final_norm=final_norm,
            normalize=normalize,
            workers=workers,
            draft=draft,
        )
        count = Count(journal.rows())
        with counted("embedding", found, journal) as advance:
            for batch in batches(readable(answers, images, found), batch_size):
                rows = [{"file": a.name} if a.error is None else {"file": a.name, "error": a.error} for a in batch]
                journal.append(rows, [answer.value for answer in batch if answer.value is not None])
                for row in rows:
                    count.add(row)
                    advance()
        embeddings = journal.vectors()
        write_embeddings(output, journal.names(), embeddings, force=True)
        count.say(output, journal.rows(), json, shape=list(embeddings.shape))
        journal.remove()
    count.report(strict)
