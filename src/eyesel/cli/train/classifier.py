from pathlib import Path
from typing import Annotated, Literal

import typer

from eyesel.cli.options import Force, Json, Offline, Resume, print_json


def classifier(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Argument(
            help="A folder (class folders, or metadata.jsonl|csv; train/validation/test below it), Parquet, or "
            "owner/name[:configuration] of the hub.",
            metavar="DATA",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder for the run and what comes of it.")],
    base: Annotated[str, typer.Option("--base", "-b", help="What `eyesel classify --model` opens.")] = "tiny",
    tune: Annotated[
        str, typer.Option(help="full, head (a linear probe), last-N (the last N layers and the head), or lora.")
    ] = "full",
    image_size: Annotated[int | None, typer.Option(help="Pixels a side; default the base's own.")] = None,
    validation_share: Annotated[float, typer.Option(help="Held back of each class where no split is there.")] = 0.15,
    crop: Annotated[float, typer.Option(help="The smallest share of a picture that a crop keeps; 1: no crops.")] = 0.08,
    flip: Annotated[bool, typer.Option(help="Mirror half of the pictures.")] = True,
    rand_augment: Annotated[int, typer.Option(help="Operations of RandAugment a picture.")] = 0,
    rand_magnitude: Annotated[int, typer.Option(help="Their strength, out of 30.")] = 9,
    mixup: Annotated[float, typer.Option(help="Alpha of mixup, 0 for none; 0.2 is common.")] = 0.0,
    cutmix: Annotated[float, typer.Option(help="Alpha of CutMix, 0 for none; 1 is common.")] = 0.0,
    class_weights: Annotated[
        bool, typer.Option("--class-weights", help="Weigh classes by the inverse of their number of pictures.")
    ] = False,
    early_stopping: Annotated[
        int, typer.Option(help="Stop after so many evaluations without a better one; 0: never.")
    ] = 0,
    average: Annotated[
        float | None, typer.Option(help="Decay of an average of the weights (EMA), for example 0.999.")
    ] = None,
    lora_rank: Annotated[int, typer.Option(help="With --tune lora.")] = 16,
    lora_alpha: Annotated[float, typer.Option(help="With --tune lora.")] = 16.0,
    lora_dropout: Annotated[float, typer.Option(help="With --tune lora.")] = 0.1,
    lora_targets: Annotated[str, typer.Option(help="Layers: of to_q, to_k, to_v, to_out, fc1, fc2.")] = "to_q,to_v",
    image_column: Annotated[str | None, typer.Option(help="Of a table; default image.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Of a table or metadata; default label.")] = None,
    format: Annotated[Literal["transformers", "timm"], typer.Option(help="Of the output.")] = "transformers",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at a picture that cannot be read.")] = False,
    resume: Resume = False,
    force: Force = False,
    json: Json = False,
    offline: Offline = False,
) -> None:
    """Fine-tune a classifier. Further options are all fields of transformers' TrainingArguments, under their names:
    --learning-rate 2e-5 --num-train-epochs 5 --per-device-train-batch-size 8 --seed 1337 --report-to tensorboard.

    Example: eyesel train classifier photos/ --output my-classifier --tune last-2 --learning-rate 1e-4
    """
    from eyesel.train import check_installed

    check_installed()

    from eyesel.train.arguments import read_words
    from eyesel.train.classifier import train_classifier
    from eyesel.train.classifier_settings import NAMES, ClassifierSettings, classifier_arguments

    given = {name: context.params[name] for name in NAMES}
    targets = tuple(target.strip() for target in lora_targets.split(","))
    settings = ClassifierSettings(**{**given, "lora_targets": targets})
    args = classifier_arguments(output, read_words(context.args, NAMES))
    metrics = train_classifier(data, args, base, settings, resume, force)
    if args.process_index:
        return
    if json:
        print_json(metrics)
        return
    if not metrics:
        typer.echo(f"{output}: the run is finished already")
        return
    judged = "test" if "test_accuracy" in metrics else "eval"
    named = "test" if judged == "test" else "validation"
    typer.echo(
        f"{output}: {metrics[f'{judged}_accuracy']:.2%} of the {named} pictures right after "
        f"{metrics['train_seconds']:.0f} s; README.md, mistakes.png and confusion.png say more"
    )
