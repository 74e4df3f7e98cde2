"""What the commands that paint share: their options, and the loop that paints and saves.

The options go by the names of `Settings` and of `StableDiffusion.load`: a command's parameters are handed on by name.
"""

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eyesel.cli import adapter
from eyesel.cli.options import print_json, progress
from eyesel.errors import EyeselError, SettingError
from eyesel.settings import Settings

if TYPE_CHECKING:
    from eyesel.picture import Picture
    from eyesel.weights.library import Library
    from eyesel.weights.lora import LoraFile

MOST_PICTURES = 10_000
ENTRIES = 6_000  # bytes: what the settings of a picture take at most in a JPEG, besides the prompts
INTERRUPTED = 130  # the exit code of a program that was stopped by Ctrl-C


def _numbers(option: str, example: str, separator: str, kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """A reader of as many numbers as the example has."""

    def read(text: str) -> tuple[Any, ...]:
        parts = text.lower().split(separator)
        try:
            if len(parts) != len(example.split(separator)):
                raise ValueError
            return tuple(kind(part) for part in parts)
        except ValueError:
            raise SettingError(f"{option} {text!r} cannot be read; write for example {example}.") from None

    return read


Prompt = Annotated[
    str | None,
    typer.Argument(
        help="What to paint, at any length; default what --from says.", metavar="PROMPT", show_default=False
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="PNG, JPEG or WebP; several pictures are numbered: name-1.png, ...")
]
Negative = Annotated[str | None, typer.Option(help="What to stay away from.")]
Steps = Annotated[int | None, typer.Option(help="More is slower and finer; default the checkpoint's own, else 25.")]
Guidance = Annotated[
    float | None,
    typer.Option(help="How closely to follow the prompt, 1 is no guidance; default the checkpoint's own, else 7.5."),
]
GuidanceRescale = Annotated[float, typer.Option(help="How much of guidance's added contrast to take away, 0 to 1.")]
GuidanceInterval = Annotated[
    Any,
    typer.Option(
        parser=_numbers("--guidance-interval", "0.28,5.42", ",", float),
        metavar="LOW,HIGH",
        help="Guide only at these noise levels, such as 0.28,5.42: faster.",
    ),
]
Solver = Annotated[
    str | None, typer.Option(help='euler, ddim, "DPM++ 2M Karras", turbo, ...; default the checkpoint\'s own.')
]
Schedule = Annotated[
    str | None, typer.Option(help="karras, sgm_uniform, align_your_steps, ...; default the checkpoint's own.")
]
Eta = Annotated[float | None, typer.Option(help="The share of fresh noise, 0 to 1; default the solver's own.")]
Rng = Annotated[str, typer.Option(help="Whose noise: cpu (diffusers, ComfyUI) or philox (AUTOMATIC1111).")]
Seed = Annotated[int | None, typer.Option(help="The same seed paints the same picture; default random.")]
Size = Annotated[
    Any,
    typer.Option(
        parser=_numbers("--size", "512x768", "x", int), metavar="WIDTHxHEIGHT", help="In pixels, such as 512x768."
    ),
]
ClipSkip = Annotated[
    int | None, typer.Option(help="The text encoder's layer, from its end: 1 is the last, 2 the one before.")
]
Emphasis = Annotated[
    str, typer.Option(help="What (word:1.2) does: original, no-norm, ignore, or none (brackets are plain text).")
]
VariationSeed = Annotated[int | None, typer.Option(help="Of the noise that the picture is varied with.")]
VariationStrength = Annotated[float, typer.Option(help="How far to go to that noise, 0 to 1: siblings of a picture.")]
Seamless = Annotated[bool, typer.Option("--seamless", help="Left fits right and top fits bottom: a texture.")]
Strength = Annotated[
    float | None, typer.Option(help="How much is made anew, up to 1; default 0.75, and 1 under a mask.")
]
Resize = Annotated[str, typer.Option(help="How a picture comes to --size: stretch, crop or fill.")]
Count = Annotated[int, typer.Option("-n", help="How many pictures, from seeds seed, seed + 1, ...")]
Enlarge = Annotated[int, typer.Option(help="Save each pixel as a square this many wide.")]
ModelHash = Annotated[
    bool, typer.Option("--model-hash", help="Write down the hash of the model's file, by which Civitai finds it.")
]
Variant = Annotated[str | None, typer.Option(help="Of a folder's weight files, such as fp16.")]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:WEIGHT]",
        help="A LoRA, or its name in the folder of models; FILE:TEXT:UNET weighs its halves. May be repeated.",
    ),
]
Offload = Annotated[
    bool, typer.Option("--offload", help="Keep weights in the host's memory, on the accelerator only while they work.")
]
ModelsDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        envvar="EYESEL_MODELS",
        help="A folder of models, as AUTOMATIC1111 or ComfyUI keep theirs: <lora:name> and embeddings in prompts, "
        "and checkpoints by name.",
    ),
]
Expand = Annotated[
    Any,
    typer.Option(
        parser=_numbers("--expand", "0,0,256,0", ",", int),
        metavar="LEFT,TOP,RIGHT,BOTTOM",
        help="Pixels of new canvas to paint on, such as 0,0,256,0.",
    ),
]

LOADING = (
    "device",
    "precision",
    "variant",
    "vae",
    "ema",
    "prediction_type",
    "zero_terminal_snr",
    "models_dir",
    "offload",
    "offline",
)
SETTINGS = tuple(field.name for field in fields(Settings))


def paint(
    prompt: str | None,
    output: Path,
    parameters: dict[str, Any],
    image: str | None = None,
    mask: str | None = None,
    also: Sequence[str] = (),
    aligned: dict[str, bool] | None = None,
) -> None:
    """Paint `n` pictures and save each as it is done; `parameters` are those of the command.

    `aligned` holds align_style and align_norms of `StableDiffusion.steps`: all pictures are one batch, `n` of each
    prompt.
    """
    from eyesel import infotext
    from eyesel.images import WRITABLE, check_room, check_writable, open_image
    from eyesel.picture import check_enlargement
    from eyesel.run import whole_seed
    from eyesel.stable_diffusion import StableDiffusion
    from eyesel.weights.hash import short_hash
    from eyesel.weights.hub import resolve

    if prompt is None:
        raise SettingError("There is no prompt: say what to paint, or name a painted picture with --from.")
    aligned = {name: wanted for name, wanted in (aligned or {}).items() if wanted}
    if also and not aligned:
        raise SettingError("--also paints other prompts in the same style: give --align-style with it.")
    n, seed = parameters["n"], parameters["seed"]
    settings = {name: parameters[name] for name in SETTINGS if name in parameters}
    Settings.of(settings).check_for(image is not None, mask is not None)
    if not 1 <= n <= MOST_PICTURES:
        raise SettingError(f"-n is {n}; it must lie between 1 and {MOST_PICTURES}.")
    prompts = [text for text in (prompt, *also) for _ in range(n)]
    n = len(prompts)
    prompted = adapter.image_prompt(parameters)
    outputs = [output] if n == 1 else [output.with_stem(f"{output.stem}-{i + 1}") for i in range(n)]
    for path in outputs:
        check_writable(path, WRITABLE)
    check_room(
        output, infotext.metadata({"prompt": max(prompts, key=len), "negative": settings["negative"]}), spare=ENTRIES
    )
    shown = parameters["adapter_images"] or ()
    for source in (Path(name) for name in (image, mask, *shown) if name is not None):
        if source.exists() and any(path.exists() and path.samefile(source) for path in outputs):
            raise SettingError(f"{source} would be overwritten by what is painted from it: name another file with -o.")
    varied = bool(settings["variation_strength"])
    seed = secrets.randbelow(2**32) if seed is None else whole_seed(seed, 1 if varied else n)
    if varied:
        other = settings["variation_seed"]
        settings["variation_seed"] = secrets.randbelow(2**32) if other is None else whole_seed(other, n)
    if parameters["enlarge"] < 1:
        raise SettingError(f"--enlarge is {parameters['enlarge']}; it must be at least 1.")
    loading = {name: parameters[name] for name in LOADING}
    noted = adapter.noted(parameters)
    painter = StableDiffusion.load(parameters["model"], **loading)
    if parameters["model_hash"]:
        file = resolve(painter.name, kind="painter", variant=loading["variant"], offline=loading["offline"])
        noted["model_hash"] = short_hash(file)
    loras = [named_lora(text, painter.library) for text in parameters["loras"] or ()]
    painter, said = painter.asked_for(prompts, settings["negative"], loras)
    if prompted is not None:
        painter = painter.with_image_prompt(**prompted)
    width, height = open_image(image).size if image else painter.picture_size(settings["size"])
    factor = settings.get("hires") or 1.0
    check_enlargement((round(width * factor), round(height * factor)), parameters["enlarge"])
    done: list[tuple[Path, Picture]] = []
    try:
        with progress("painting", n) as advance:
            for batch in [range(n)] if aligned else [range(i, i + 1) for i in range(n)]:
                # one by one where that is possible, so that what is finished is on disk
                if varied:
                    own = {**settings, **aligned, "seed": seed, "variation_seed": settings["variation_seed"] + batch[0]}
                else:
                    own = {**settings, **aligned, "seed": seed + batch[0]}
                texts = (each[batch.start : batch.stop] for each in (said, prompts))
                for painting in painter.steps_of(*texts, image=image, mask=mask, **own):
                    advance(len(batch) / painting.total)
                for i, picture in zip(batch, painting.pictures(), strict=True):
                    picture = replace(picture, settings=picture.settings | noted)
                    picture.save(outputs[i], parameters["enlarge"])
                    done.append((outputs[i], picture))
    except KeyboardInterrupt:
        report(done, parameters["json"])
        typer.echo(f"eyesel: interrupted; {len(done)} of {n} pictures are finished.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except EyeselError:  # what is finished is said all the same
        if done:
            report(done, parameters["json"])
        raise
    report(done, parameters["json"])


def named_lora(text: str, library: "Library | None") -> "LoraFile":
    """What FILE, FILE:WEIGHT or FILE:TEXT:UNET names; a file, or a LoRA of the folder of models."""
    from eyesel.weights.lora import LoraFile

    found = re.fullmatch(r"(?P<name>.+?)(:(?P<text>[^:/\\]*)(:(?P<unet>[^:/\\]*))?)?", text)
    name, weights = (found["name"], (found["text"], found["unet"])) if found else (text, (None, None))
    try:
        text_weight = 1.0 if weights[0] is None else float(weights[0])
        unet_weight = text_weight if weights[1] is None else float(weights[1])
    except ValueError:
        raise SettingError(f"--lora {text!r} cannot be read; write FILE or FILE:0.8.") from None
    path = Path(name)
    if not path.exists() and library is not None:
        path = library.find_lora(path.stem if path.suffix else name)
    return LoraFile(path, text_weight, unet_weight)


def report(done: "list[tuple[Path, Picture]]", json: bool) -> None:
    if json:
        print_json([{"file": str(path), "seed": picture.seed, **picture.settings} for path, picture in done])
        return
    for path, picture in done:
        width, height = picture.image.size
        typer.echo(f"{path}: seed {picture.seed}, {width}x{height}, {picture.settings['solver']}")
