from typing import Annotated

import typer

from eyesel.cli.options import BatchSize, Device, Json, Model, Offline, Precision, batches, print_json, progress


def classify(
    images: Annotated[list[str], typer.Argument(help="Pictures, folders or globs.", metavar="IMAGE...")],
    model: Model = "tiny",
    top_k: Annotated[int, typer.Option(help="How many labels for each picture.")] = 5,
    json: Json = False,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    precision: Precision = "auto",
    offline: Offline = False,
) -> None:
    """Say what is in a picture: labels and scores, best first.

    Example: eyesel classify fox.png --top-k 3 --json
    """
    from eyesel.classifier import ImageClassifier
    from eyesel.images import find_images

    files = find_images(images)
    classifier = ImageClassifier.load(model, device=device, precision=precision, offline=offline)
    results = []
    with progress("classifying", len(files)) as advance:
        for batch in batches(files, batch_size):
            for file, predictions in zip(batch, classifier.classify(batch, top_k, batch_size), strict=True):
                results.append((file, predictions))
                advance()
    if json:
        print_json(
            [
                {"file": str(file), "predictions": [{"label": p.label, "score": p.score} for p in predictions]}
                for file, predictions in results
            ]
        )
        return
    for file, predictions in results:
        typer.echo(str(file))
        for p in predictions:
            typer.echo(f"  {p.score:7.2%}  {p.label}")
