from pathlib import Path
from typing import Annotated

import typer

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


def generate(
    prompt: Annotated[str, typer.Argument(help="What to paint.", metavar="PROMPT")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="PNG, JPEG or WebP; several pictures are numbered: name-1.png, ...")
    ] = Path("picture.png"),
    model: Model = "tiny",
    negative: Annotated[str | None, typer.Option(help="What to stay away from.")] = None,
    steps: Annotated[int, typer.Option(help="More is slower and finer.")] = 25,
    guidance: Annotated[float, typer.Option(help="How closely to follow the prompt; 1 is no guidance.")] = 7.5,
    solver: Annotated[
        str | None, typer.Option(help="euler, ddim, dpmpp_2m, unipc, ...; default the checkpoint's own.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed paints the same picture; default random.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels, such as 512x768.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many pictures, from seeds seed, seed + 1, ...")] = 1,
    enlarge: Annotated[int, typer.Option(min=1, max=64, help="Save each pixel as a square this many wide.")] = 1,
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

    Example: eyesel generate "a large fox on a blue background" --seed 7 -o fox.png
    """
    import secrets

    from eyesel.images import WRITABLE, check_writable

    outputs = [output] if n == 1 else [output.with_stem(f"{output.stem}-{i + 1}") for i in range(n)]
    for path in outputs:
        check_writable(path, WRITABLE)
    wanted = _size(size)
    seed = secrets.randbelow(2**32) if seed is None else seed

    from eyesel.stable_diffusion import StableDiffusion

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
    done = []
    with progress("painting", n * steps) as advance:
        for i, path in enumerate(outputs):  # one by one, so that what is finished is on disk
            for painting in painter.steps(
                prompt, negative=negative, steps=steps, guidance=guidance, solver=solver, seed=seed + i, size=wanted
            ):
                advance()
                last = painting
            picture = last.pictures()[0]
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
