from typing import Annotated, Literal

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


def classify(
    images: Annotated[list[str], typer.Argument(help="Pictures, folders or globs.", metavar="IMAGE...")],
    model: Model = "tiny",
    top_k: Annotated[int, typer.Option(help="How many labels for each picture.")] = 5,
    function_to_apply: Annotated[
        Literal["softmax", "sigmoid", "none"] | None,
        typer.Option(help="What makes scores of the network's numbers; default what the checkpoint was trained for."),
    ] = None,
    image_size: ImageSize = None,
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

    files, size = find_images(images), read_image_size(image_size)
    classifier = ImageClassifier.load(model, image_size=size, device=device, precision=precision, offline=offline)
    results = []
    with progress("classifying", len(files)) as advance:
        for batch in batches(files, batch_size):
            predicted = classifier.classify(batch, top_k, batch_size, function_to_apply)
            for file, predictions in zip(batch, predicted, strict=True):
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
    raw = (function_to_apply or classifier.default_function) == "none"
    for file, predictions in results:
        typer.echo(str(file))
        for p in predictions:
            typer.echo(f"  {p.score:10.4f}  {p.label}" if raw else f"  {p.score:7.2%}  {p.label}")
