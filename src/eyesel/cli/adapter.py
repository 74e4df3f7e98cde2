"""The options of an image prompt: an adapter, what it shows to the painter, how strongly and where."""

import re
from typing import Annotated, Any

import typer

from eyesel.errors import SettingError

KINDS = ("ip-adapter",)

Adapter = Annotated[
    str | None,
    typer.Option(
        metavar="ip-adapter:FILE[:SCALE]",
        help="An IP-Adapter, which paints after --adapter-image as well as after the prompt.",
    ),
]
AdapterImages = Annotated[
    list[str] | None,
    typer.Option("--adapter-image", metavar="FILE", help="The picture that the adapter shows. May be repeated."),
]
AdapterScale = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER|WHERE",
        help="How much the picture counts, default 1, or what of it: style, layout, style+layout, or all.",
    ),
]
ImageEncoder = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER", help="CLIP's image encoder, its folder or file; default image_encoder beside the adapter."
    ),
]
OPTIONS = ("adapter_images", "adapter_scale", "image_encoder")


def image_prompt(parameters: dict[str, Any]) -> dict[str, Any] | None:
    """What `StableDiffusion.with_image_prompt` is given, None where there is no adapter."""
    adapter, images, scale, encoder = (parameters[name] for name in ("adapter", *OPTIONS))
    if adapter is None:
        for name, value in (("--adapter-image", images), ("--adapter-scale", scale), ("--image-encoder", encoder)):
            if value:
                raise SettingError(f"{name} needs an adapter: name it with --adapter ip-adapter:FILE.")
        return None
    if not images:
        raise SettingError(f"--adapter {adapter!r} has nothing to show: name a picture with --adapter-image.")
    kind, _, rest = adapter.partition(":")
    found = re.fullmatch(r"(?P<file>.+?)(:(?P<scale>[^:/\\]*))?", rest)
    if kind not in KINDS or found is None:
        raise SettingError(f"--adapter {adapter!r} cannot be read; write ip-adapter:FILE or ip-adapter:FILE:0.6.")
    prompt = {"adapter": found["file"], "image": images, "image_encoder": encoder}
    if found["scale"] is not None:
        prompt["scale"] = _number("--adapter", found["scale"])
    if scale is not None and re.match(r"[-+.\d]", scale):
        if "scale" in prompt:
            raise SettingError(f"--adapter {adapter!r} and --adapter-scale {scale} both say how much: leave one out.")
        prompt["scale"] = _number("--adapter-scale", scale)
    elif scale is not None:
        prompt["blocks"] = scale
    return prompt


def noted(parameters: dict[str, Any]) -> dict[str, Any]:
    """What the record of a picture says of its adapter, by which `--from` paints it again."""
    if parameters["adapter"] is None:
        return {}
    return {name: parameters[name] for name in ("adapter", *OPTIONS) if parameters[name] is not None}


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SettingError(f"{option} says {text!r} where a number such as 0.6 was expected.") from None
