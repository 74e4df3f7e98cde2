"""What requests to OpenAI's Images API say, and what of it the engine is asked for."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import Field

from eyesel.serve.dialects.parameters import Said, Whole, size_of
from eyesel.serve.errors import ApiError
from eyesel.serve.intake import Body
from eyesel.serve.jobs import Task

QUALITY_STEPS = {"low": 12, "high": 50, "hd": 50}  # medium, standard and auto: the checkpoint's own number

Quality = Literal["standard", "hd", "low", "medium", "high", "auto"]
Format = Literal["png", "jpeg", "webp"]


class Asked(Said):
    """What the three routes have in common, with OpenAI's meanings."""

    model: str | None = None
    n: Whole | None = Field(None, description="how many pictures, 1 by default")
    size: str | None = Field(None, description="WIDTHxHEIGHT, multiples of 8, or auto")
    quality: Quality | None = Field(None, description="low is 12 steps, high and hd 50, all else the checkpoint's own")
    response_format: Literal["url", "b64_json"] | None = Field(None, description="b64_json by default")
    output_format: Format | None = None
    output_compression: Annotated[Whole, Field(ge=0, le=100)] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    stream: bool | None = None
    partial_images: Annotated[Whole, Field(ge=0, le=3)] | None = None
    seed: Annotated[Whole, Field(ge=0, lt=2**64)] | None = None
    user: str | None = None
    moderation: Literal["low", "auto"] | None = None


class Generation(Asked):
    prompt: str
    style: Literal["vivid", "natural"] | None = None


class Edit(Asked):
    prompt: str
    input_fidelity: Literal["high", "low"] | None = None


class Variation(Asked):
    prompt: str | None = Field(None, description="beyond OpenAI; else the picture's own, or what is seen in it")


@dataclass(frozen=True)
class Order:
    """A request, understood: what the engine is asked for, and how the answer is to look."""

    task: Task
    asked: Asked
    settings: dict[str, Any]
    names: dict[str, str]
    images: dict[str, Any]
    revised: str | None = None

    @property
    def format(self) -> str:
        return self.asked.output_format or "png"

    @property
    def compression(self) -> int:
        return 100 if self.asked.output_compression is None else self.asked.output_compression


def said_in(said: dict[str, Any]) -> dict[str, Any]:
    """Without what is null, or an empty text of a form."""
    return {name: value for name, value in said.items() if value is not None and (value != "" or name == "prompt")}


def check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise ApiError(400, "prompt is empty: say what to paint.", "prompt", "missing_parameter")


def taken(body: Body, *names: str) -> list[Any]:
    """The pictures of a field: files, texts in base64, or as OpenAI's JSON has them, {"image_url": text}."""
    found: list[Any] = []
    for name in names:
        value = body.fields.pop(name, None)
        found += body.files.pop(name, [])
        found += value if isinstance(value, list) else [] if value is None else [value]
    return [each["image_url"] if isinstance(each, dict) and set(each) == {"image_url"} else each for each in found]


def refuse_files(body: Body) -> None:
    for name in body.files:
        raise ApiError(400, f"There is no file {name[:100]!r} here.", name[:100], "unknown_parameter")


def repainted(image: Image.Image, is_mask: bool) -> Image.Image | None:
    """White where a picture (RGBA) is fully transparent, which is where OpenAI's masks say to edit."""
    mask = image.getchannel("A").point(lambda alpha: 255 if alpha == 0 else 0)
    if mask.getbbox() is not None:
        return mask
    if is_mask:
        raise ApiError(
            400, "mask has no fully transparent pixel, which is where the picture is edited.", "mask", "invalid_request"
        )
    return None


def order(
    task: Task,
    asked: Asked,
    settings: dict[str, Any],
    names: dict[str, str],
    images: dict[str, Any],
    revised: str | None = None,
) -> Order:
    if asked.background == "transparent":
        raise ApiError(400, "background is transparent, and what is painted here is opaque.", "background")
    if asked.output_compression is not None and asked.output_format in (None, "png") and asked.output_compression < 100:
        raise ApiError(
            400, "output_compression is for jpeg and webp: choose one as output_format.", "output_compression"
        )
    if asked.stream and asked.response_format == "url":
        raise ApiError(400, "response_format is url, and a stream has its pictures in it.", "response_format")
    settings, names = dict(settings), dict(names)
    steps = QUALITY_STEPS.get(asked.quality or "auto")
    if steps is not None:
        if "steps" in settings:
            raise ApiError(
                400, f"quality is {asked.quality}, which is {steps} steps: leave out it or {names['steps']}.", "quality"
            )
        settings["steps"], names["steps"] = steps, "quality"
    size = size_of(asked.size)
    if size is not None and task != "stylize":
        if "size" in settings:
            raise ApiError(400, "size is said twice.", "size")
        settings["size"] = size
        if images:
            settings.setdefault("resize", "crop")
    settings["prompt"] = revised or getattr(asked, "prompt", None)
    return Order(task, asked, settings, names, images, revised)
