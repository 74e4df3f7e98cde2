from pathlib import Path
from typing import Annotated

import typer

from eyesel.cli.options import Force, Json, Offline, PredictionType, Resume, Vae, ZeroTerminalSnr, print_json


def diffusion(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Argument(
            help="A folder of pictures; captions in metadata.jsonl|csv (file_name, text), in .txt or .caption files "
            "beside them, or in the names of folders (those of kohya, 10_sks dog, with repeats).",
            metavar="DATA",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder for the run and what comes of it.")],
    base: Annotated[
        str, typer.Option("--base", "-b", "--model", "-m", help="What `eyesel generate --model` opens.")
    ] = "tiny",
    method: Annotated[str, typer.Option(help="full, lora, dreambooth, textual-inversion or inpaint.")] = "lora",
    # captions
    caption_column: Annotated[str | None, typer.Option(help="Of the metadata; default text, or caption.")] = None,
    instance_prompt: Annotated[
        str | None, typer.Option(help="One caption for all pictures, such as 'a sks dog', instead of their own.")
    ] = None,
    shuffle_tags: Annotated[
        bool, typer.Option("--shuffle-tags", help="Change the order of what is between commas each time.")
    ] = False,
    keep_tokens: Annotated[int, typer.Option(help="With --shuffle-tags: so many stay in front.")] = 0,
    caption_dropout: Annotated[
        float, typer.Option(help="The share of captions left out, which guidance learns from; 0.1 is common.")
    ] = 0.0,
    chunks: Annotated[int, typer.Option(help="How many times 75 tokens of a caption are read.")] = 1,
    # pictures
    resolution: Annotated[int | None, typer.Option(help="Pixels a side; default the base's own.")] = None,
    buckets: Annotated[
        bool, typer.Option("--buckets/--no-buckets", help="Keep proportions, or crop to squares.")
    ] = True,
    bucket_step: Annotated[int | None, typer.Option(help="Of the sides; default 64, or 8 below 256 pixels.")] = None,
    min_bucket: Annotated[int | None, typer.Option(help="The shortest side; default half the resolution.")] = None,
    max_bucket: Annotated[int | None, typer.Option(help="The longest side; default twice the resolution.")] = None,
    upscale: Annotated[
        bool, typer.Option("--upscale/--no-upscale", help="Enlarge small pictures, or leave them small.")
    ] = True,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror half of the pictures.")] = False,
    repeats: Annotated[int, typer.Option(help="How often an epoch shows each picture.")] = 1,
    cache: Annotated[
        str | None,
        typer.Option(help="Keep latents and encoded captions here for later runs; else in memory.", metavar="FOLDER"),
    ] = None,
    # the loss
    snr_gamma: Annotated[float | None, typer.Option(help="Min-SNR weighting; 5 is common.")] = None,
    noise_offset: Annotated[float, typer.Option(help="Of whole channels; 0.05 to 0.1 are common.")] = 0.0,
    ema: Annotated[float | None, typer.Option(help="Decay of an average of the weights, for example 0.9999.")] = None,
    # what is trained
    train_text_encoder: Annotated[bool, typer.Option("--train-text-encoder", help="Train it, too.")] = False,
    lora: Annotated[bool, typer.Option("--lora", help="With dreambooth: train a LoRA.")] = False,
    rank: Annotated[int, typer.Option(help="Of a LoRA.")] = 4,
    alpha: Annotated[float | None, typer.Option(help="Of a LoRA; default its rank.")] = None,
    targets: Annotated[
        str,
        typer.Option(help="Of a LoRA: attention (diffusers), transformer (kohya), or all (convolutions as well)."),
    ] = "attention",
    # what is to be kept
    class_prompt: Annotated[
        str | None, typer.Option(help="With lora and dreambooth: what the base has to keep, such as 'a dog'.")
    ] = None,
    class_data: Annotated[
        str | None,
        typer.Option(
            help="Pictures of --class-prompt, of which the base paints what is missing; without that, pictures with "
            "captions like those of DATA (kohya's regularisation folder).",
            metavar="FOLDER",
        ),
    ] = None,
    class_pictures: Annotated[int, typer.Option(help="Of --class-prompt: how many there are to be.")] = 100,
    prior_weight: Annotated[float, typer.Option(help="Of the loss of what is kept.")] = 1.0,
    # textual inversion
    placeholder: Annotated[str | None, typer.Option(help="The new word, such as '<cat-toy>'.")] = None,
    initializer: Annotated[str | None, typer.Option(help="A word to begin from, such as toy.")] = None,
    vectors: Annotated[int | None, typer.Option(help="Of the new word; default those of the initializer.")] = None,
    learnable_property: Annotated[
        str, typer.Option(help="object or style: which templates the word is said in.")
    ] = "object",
    # validation
    validation_prompt: Annotated[
        list[str] | None, typer.Option(help="Painted now and then, into samples.png. May be repeated.")
    ] = None,
    validation_steps: Annotated[
        int | None, typer.Option(help="Between two of these; default a fifth of the run.")
    ] = None,
    validation_seed: Annotated[int, typer.Option(help="They are painted from.")] = 0,
    # files
    save_precision: Annotated[str, typer.Option(help="Of what is written: float32, float16 or bfloat16.")] = "float32",
    variant: Annotated[str | None, typer.Option(help="Weight files of the base's folder, such as fp16.")] = None,
    vae: Vae = None,
    prediction_type: PredictionType = None,
    zero_terminal_snr: ZeroTerminalSnr = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at a picture that cannot be read or has no caption.")
    ] = False,
    resume: Resume = False,
    force: Force = False,
    json: Json = False,
    offline: Offline = False,
) -> None:
    """Fine-tune a painter. Further options are all fields of transformers' TrainingArguments, under their names:
    --learning-rate 1e-4 --max-steps 1000 --per-device-train-batch-size 4 --bf16 --report-to tensorboard.

    Example: eyesel train diffusion photos/ --output my-lora --base owner/name --rank 8 --validation-prompt "a sks dog"
    """
    from eyesel.train import check_installed

    check_installed()

    from eyesel.train.arguments import read_words
    from eyesel.train.diffusion.fit import diffusion_arguments, train_diffusion
    from eyesel.train.diffusion.settings import NAMES, Settings

    given = {name: context.params[name] for name in NAMES}
    settings = Settings(**{**given, "validation_prompt": tuple(validation_prompt or ())})
    args = diffusion_arguments(output, settings, read_words(context.args, NAMES))
    metrics = train_diffusion(data, args, base, settings, resume, force)
    if args.process_index:
        return
    if json:
        print_json(metrics)
    elif not metrics:
        typer.echo(f"{output}: the run is finished already")
    else:
        typer.echo(
            f"{output}: {method}, a mean loss of {metrics['train_loss']:.4f} after {metrics['train_runtime']:.0f} s; "
            "README.md says how to use it"
        )
