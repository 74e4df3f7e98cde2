from pathlib import Path
from typing import Annotated

import typer

from eyesel.cli import painting as p
from eyesel.cli.adapter import Adapter, AdapterImages, AdapterScale, ImageEncoder
from eyesel.cli.again import From
from eyesel.cli.options import Device, Ema, Json, Model, Offline, Precision, PredictionType, Vae, ZeroTerminalSnr
from eyesel.errors import SettingError


def inpaint(
    context: typer.Context,
    image: Annotated[str, typer.Argument(help="The picture to repaint.", metavar="IMAGE")],
    mask: Annotated[
        str,
        typer.Argument(
            help="A picture of the same size, white where it is repainted; `alpha`: where the picture is transparent; "
            "`none`: nowhere but on what --expand adds.",
            metavar="MASK",
        ),
    ],
    prompt: p.Prompt = None,
    output: p.Output = Path("picture.png"),
    from_: From = None,
    model: Model = "tiny",
    mask_blur: Annotated[int, typer.Option(help="How many pixels the edge of the mask is softened by.")] = 4,
    fill: Annotated[
        str | None,
        typer.Option(
            help="What the masked part starts from: original, fill (the colours around it), noise or nothing; "
            "default original, and at --strength 1 only noise."
        ),
    ] = None,
    only_masked: Annotated[
        bool, typer.Option("--only-masked", help="Repaint the part around the mask at full --size, and paste it back.")
    ] = False,
    padding: Annotated[int, typer.Option(help="How many pixels wider that part is than the mask.")] = 32,
    invert: Annotated[bool, typer.Option("--invert", help="Repaint where the mask is black.")] = False,
    expand: p.Expand = None,
    strength: p.Strength = None,
    size: p.Size = None,
    resize: p.Resize = "stretch",
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
    clip_skip: p.ClipSkip = None,
    emphasis: p.Emphasis = "original",
    variation_seed: p.VariationSeed = None,
    variation_strength: p.VariationStrength = 0.0,
    seamless: p.Seamless = False,
    loras: p.Loras = None,
    adapter: Adapter = None,
    adapter_images: AdapterImages = None,
    adapter_scale: AdapterScale = None,
    image_encoder: ImageEncoder = None,
    models_dir: p.ModelsDir = None,
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
    """Repaint where a mask is white. Everything else stays as it is, bit for bit.

    Works with checkpoints made for inpainting and with ordinary ones.

    Example: eyesel inpaint photo.png mask.png "a small owl on a blue background" --only-masked -o repainted.png
    """
    if mask == "none" and expand is None:
        raise SettingError("A mask of none repaints nothing: give a mask, or --expand the canvas.")
    p.paint(prompt, output, context.params, image=image, mask=None if mask == "none" else mask)
