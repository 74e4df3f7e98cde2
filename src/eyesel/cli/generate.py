from pathlib import Path
from typing import Annotated

import typer

from eyesel.cli.again import From
from eyesel.cli.options import (
    Device,
    Ema,
    Json,
    Model,
    Offline,
    Precision,
    PredictionType,
    Vae,
    ZeroTerminalSnr,
    print_json,
    progress,
)

MOST_PICTURES = 10_000
ENTRIES = 6_000  # bytes: what the settings of a picture take at most in a JPEG, besides the prompts


def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="What to paint, at any length; default what --from says.", metavar="PROMPT", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="PNG, JPEG or WebP; several pictures are numbered: name-1.png, ...")
    ] = Path("picture.png"),
    from_: From = None,
    model: Model = "tiny",
    negative: Annotated[str | None, typer.Option(help="What to stay away from.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="More is slower and finer; default the checkpoint's own, else 25.")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="How closely to follow the prompt, 1 is no guidance; default the checkpoint's own, else 7.5."
        ),
    ] = None,
    guidance_rescale: Annotated[
        float, typer.Option(help="How much of guidance's added contrast to take away, 0 to 1.")
    ] = 0.0,
    guidance_interval: Annotated[
        str | None,
        typer.Option(metavar="LOW,HIGH", help="Guide only at these noise levels, such as 0.28,5.42: faster."),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(help='euler, ddim, "DPM++ 2M Karras", turbo, ...; default the checkpoint\'s own.'),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="karras, sgm_uniform, align_your_steps, ...; default the checkpoint's own."),
    ] = None,
    eta: Annotated[
        float | None, typer.Option(help="The share of fresh noise, 0 to 1; default the solver's own.")
    ] = None,
    rng: Annotated[str, typer.Option(help="Whose noise: cpu (diffusers, ComfyUI) or philox (AUTOMATIC1111).")] = "cpu",
    seed: Annotated[int | None, typer.Option(help="The same seed paints the same picture; default random.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels, such as 512x768.")] = None,
    clip_skip: Annotated[
        int | None,
        typer.Option(help="The text encoder's layer, from its end: 1 is the last, 2 the one before."),
    ] = None,
    emphasis: Annotated[
        str, typer.Option(help="What (word:1.2) does: original, no-norm, ignore, or none (brackets are plain text).")
    ] = "original",
    n: Annotated[int, typer.Option("-n", help="How many pictures, from seeds seed, seed + 1, ...")] = 1,
    enlarge: Annotated[int, typer.Option(help="Save each pixel as a square this many wide.")] = 1,
    model_hash: Annotated[
        bool, typer.Option("--model-hash", help="Write down the hash of the model's file, by which Civitai finds it.")
    ] = False,
    json: Json = False,
    device: Device = "auto",
    precision: Precision = "auto",
    variant: Annotated[str | None, typer.Option(help="Of a folder's weight files, such as fp16.")] = None,
    vae: Vae = None,
    ema: Ema = False,
    prediction_type: PredictionType = None,
    zero_terminal_snr: ZeroTerminalSnr = None,
    offline: Offline = False,
) -> None:
    """Paint a picture from words.

    Prompts follow AUTOMATIC1111's conventions: (word:1.2), (word) and [word] weigh words, BREAK starts a new chunk,
    [fox:owl:0.4] and [fox|owl] change over the steps, and `a fox AND an owl :1.2` combines prompts. A backslash makes
    a bracket a plain character: \\( \\) \\[ \\].

    Example: eyesel generate "a large fox on a blue background" --seed 7 -o fox.png
    """
    import secrets
    from dataclasses import replace

    from eyesel import infotext
    from eyesel.errors import SettingError
    from eyesel.images import WRITABLE, check_room, check_writable

    if prompt is None:
        raise SettingError("There is no prompt: say what to paint, or name a painted picture with --from.")
    if not 1 <= n <= MOST_PICTURES:
        raise SettingError(f"-n is {n}; it must lie between 1 and {MOST_PICTURES}.")
    outputs = [output] if n == 1 else [output.with_stem(f"{output.stem}-{i + 1}") for i in range(n)]
    for path in outputs:
        check_writable(path, WRITABLE)
    wanted, interval = _size(size), _interval(guidance_interval)
    check_room(output, infotext.metadata({"prompt": prompt, "negative": negative}), spare=ENTRIES)

    from eyesel.picture import check_enlargement
    from eyesel.stable_diffusion import StableDiffusion, whole_seed
    from eyesel.weights.hash import short_hash
    from eyesel.weights.hub import resolve

    seed = secrets.randbelow(2**32) if seed is None else whole_seed(seed, n)

    checkpoint = resolve(model, kind="painter", variant=variant, offline=offline)
    hashed = {"model_hash": short_hash(checkpoint)} if model_hash else {}
    painter = StableDiffusion.load(
        model,
        device=device,
        precision=precision,
        variant=variant,
        vae=vae,
        ema=ema,
        prediction_type=prediction_type,
        zero_terminal_snr=zero_terminal_snr,
        offline=offline,
    )
    check_enlargement(painter.picture_size(wanted), enlarge)
    done = []
    with progress("painting", n * (painter.recommended.num_inference_steps if steps is None else steps)) as advance:
        for i, path in enumerate(outputs):  # one by one, so that what is finished is on disk
            for painting in painter.steps(
                prompt,
                negative=negative,
                steps=steps,
                guidance=guidance,
                guidance_rescale=guidance_rescale,
                guidance_interval=interval,
                solver=solver,
                schedule=schedule,
                eta=eta,
                rng=rng,
                seed=seed + i,
                size=wanted,
                clip_skip=clip_skip,
                emphasis=emphasis,
            ):
                advance()
                last = painting
            picture = last.pictures()[0]
            picture = replace(picture, settings=picture.settings | hashed)
            picture.save(path, enlarge)
            done.append({"file": str(path), "seed": picture.seed, **picture.settings})
    if json:
        print_json(done)
        return
    for entry in done:
        typer.echo(f"{entry['file']}: seed {entry['seed']}, {entry['width']}x{entry['height']}, {entry['solver']}")


def _size(text: str | None) -> tuple[int, int] | None:
    from eyesel.errors import SettingError

    if text is None:
        return None
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise SettingError(f"--size {text!r} is not WIDTHxHEIGHT; write for example 512x768.")
    return int(width), int(height)


def _interval(text: str | None) -> tuple[float, float] | None:
    from eyesel.errors import SettingError

    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise SettingError(f"--guidance-interval {text!r} is not LOW,HIGH; write for example 0.28,5.42.") from None
    return low, high
