from pathlib import Path
from typing import Annotated

import typer

from eyesel.cli import painting as p
from eyesel.cli.adapter import Adapter, AdapterImages, AdapterScale, ImageEncoder
from eyesel.cli.again import From
from eyesel.cli.options import Device, Ema, Json, Model, Offline, Precision, PredictionType, Vae, ZeroTerminalSnr
from eyesel.settings import HIRES_UPSCALERS


def generate(
    context: typer.Context,
    prompt: p.Prompt = None,
    output: p.Output = Path("picture.png"),
    from_: From = None,
    model: Model = "tiny",
    negative: p.Negative = None,
    steps: p.Steps = None,
    guidance: p.Guidance = None,
    guidance_rescale: p.GuidanceRescale = 0.0,
    guidance_interval: p.GuidanceInterval = None,
    solver: p.Solver = None,
    schedule: p.Schedule = None,
    eta: p.Eta = None,
    rng: p.Rng = "cpu",
    seed: p.Seed = None,
    size: p.Size = None,
    clip_skip: p.ClipSkip = None,
    emphasis: p.Emphasis = "original",
    variation_seed: p.VariationSeed = None,
    variation_strength: p.VariationStrength = 0.0,
    seamless: p.Seamless = False,
    image: Annotated[str | None, typer.Option(help="A picture to start from.", metavar="FILE")] = None,
    strength: p.Strength = None,
    resize: p.Resize = "stretch",
    hires: Annotated[
        float | None, typer.Option(help="Enlarge the picture by this factor and paint over it: a second pass.")
    ] = None,
    hires_steps: Annotated[int | None, typer.Option(help="Of the second pass; default --steps.")] = None,
    hires_strength: Annotated[float, typer.Option(help="How much the second pass makes anew, up to 1.")] = 0.7,
    hires_upscaler: Annotated[
        str, typer.Option(help=f"{', '.join(HIRES_UPSCALERS)}; the last two enlarge the picture.")
    ] = "latent",
    loras: p.Loras = None,
    adapter: Adapter = None,
    adapter_images: AdapterImages = None,
    adapter_scale: AdapterScale = None,
    image_encoder: ImageEncoder = None,
    models_dir: p.ModelsDir = None,
    align_style: Annotated[
        bool, typer.Option("--align-style", help="Paint all pictures in one batch, in the style of the first one.")
    ] = False,
    align_norms: Annotated[
        bool, typer.Option("--align-norms", help="With --align-style: nearer to the first, further from the prompts.")
    ] = False,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="PROMPT", help="With --align-style: another prompt to paint. May be repeated."),
    ] = None,
    n: p.Count = 1,
    enlarge: p.Enlarge = 1,
    model_hash: p.ModelHash = False,
    json: Json = False,
    device: Device = "auto",
    precision: Precision = "auto",
    offload: p.Offload = False,
    variant: p.Variant = None,
    vae: Vae = None,
    ema: Ema = False,
    prediction_type: PredictionType = None,
    zero_terminal_snr: ZeroTerminalSnr = None,
    offline: Offline = False,
) -> None:
    """Paint a picture from words, or with --image from words and a picture.

    Prompts follow AUTOMATIC1111's conventions: (word:1.2), (word) and [word] weigh words, BREAK starts a new chunk,
    [fox:owl:0.4] and [fox|owl] change over the steps, and `a fox AND an owl :1.2` combines prompts. A backslash makes
    a bracket a plain character: \\( \\) \\[ \\].

    Example: eyesel generate "a large fox on a blue background" --seed 7 -o fox.png
    """
    aligned = {"align_style": align_style, "align_norms": align_norms}
    p.paint(prompt, output, context.params, image=image, also=also or [], aligned=aligned)
