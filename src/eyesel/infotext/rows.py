"""The settings of a picture, and the table of the entries under which AUTOMATIC1111 keeps them."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import PurePath
from typing import Annotated, Any

from eyesel.diffusion.aliases import named_schedule, named_solver
from eyesel.errors import SettingError
from eyesel.fields import Count, check_fields
from eyesel.settings import Settings

_OTHERS: dict[str, Any] = {
    "prompt": str,
    "seed": Annotated[int, range(2**64)],
    "width": int,
    "height": int,
    "loras": Annotated[tuple[Annotated[tuple[str | float, ...], range(3, 4)], ...], range(1001)],
    "content": str,
    "styles": Annotated[tuple[str, ...], range(1001)],
    "style_weights": Annotated[tuple[float, ...], range(1001)],
    "style_strength": float,
    "style_gamma": float,
    "style_temperature": float,
    "style_layers": Annotated[tuple[Count, ...], range(1001)],
    "style_color": float,
    "style_match": float,
    "faithful": bool,
    "adapter": str,
    "adapter_images": Annotated[tuple[str, ...], range(1, 1001)],
    "adapter_scale": str,
    "image_encoder": str,
    "embeddings": Annotated[tuple[str, ...], range(1001)],
    "vae": str,
    "variant": str,
    "ema": bool,
    "prediction_type": str,
    "zero_terminal_snr": bool,
    "model": str,
    "model_hash": str,
    "version": str,
}
KNOWN: dict[str, Any] = {field.name: field.type for field in fields(Settings) if field.name != "size"} | _OTHERS

# Every setting that is known here, and what it can be; None is what the picture does not say.
Said = make_dataclass(
    "Said",
    [(name, kind | None, None) for name, kind in KNOWN.items()],
    frozen=True,
    namespace={"__post_init__": lambda self: check_fields(self, SettingError)},
)


# --- from values to texts and back; what cannot be read is a ValueError that says what was expected


def whole(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,20}", text):
        raise ValueError("a whole number")
    return int(text)


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("a number")
    return value


def exact(value: float) -> str:
    """The shortest text that is read back as the same number, 7 for 7.0."""
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e15 else repr(float(value))


def numbers(separator: str, count: int, read: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    def reader(text: str) -> tuple[Any, ...]:
        parts = re.split(separator, text)
        if len(parts) != count:
            raise ValueError(f"{count} numbers")
        return tuple(read(part.strip()) for part in parts)

    return reader


def several(read: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    return lambda text: tuple(read(part.strip()) for part in text.split(","))


def texts(text: str) -> tuple[str, ...]:
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError("a list of texts")
    return tuple(found)


def layers(text: str) -> int | None:
    """Of clip skip: 0 is nothing said, and ComfyUI counts -2 where others count 2."""
    return abs(whole(text)) or None


def stem(model: str) -> str:
    """AUTOMATIC1111 knows checkpoints by their file names, without folder and suffix."""
    name = PurePath(model.replace("\\", "/"))
    return name.stem if name.suffix in (".safetensors", ".ckpt") else model


@dataclass(frozen=True)
class Names:
    """What AUTOMATIC1111 calls the values of a setting; one that has no name there keeps its own."""

    of: Mapping[Any, str]
    also: Mapping[str, Any] = field(default_factory=dict)  # other names that are read

    def write(self, value: Any) -> str:
        return self.of.get(value, str(value))

    def read(self, text: str) -> Any:
        known = {name.casefold(): value for value, name in self.of.items()} | dict(self.also)
        return known.get(text.casefold(), text)


SOLVERS = Names(
    {
        "euler": "Euler",
        "euler_ancestral": "Euler a",
        "heun": "Heun",
        "lms": "LMS",
        "dpm2": "DPM2",
        "dpm2_ancestral": "DPM2 a",
        "dpmpp_2s_ancestral": "DPM++ 2S a",
        "dpmpp_sde": "DPM++ SDE",
        "dpmpp_2m": "DPM++ 2M",
        "dpmpp_2m_sde": "DPM++ 2M SDE",
        "unipc": "UniPC",
        "ddim": "DDIM",
        "pndm": "PLMS",
        "lcm": "LCM",
    }
)
SCHEDULES = Names(
    {
        "karras": "Karras",
        "exponential": "Exponential",
        "beta": "Beta",
        "normal": "Uniform",
        "sgm_uniform": "SGM Uniform",
        "simple": "Simple",
        "align_your_steps": "Align Your Steps",
        "align_your_steps_xl": "Align Your Steps",  # it tells by the model which of the two is meant
    }
)
RNGS = Names({"cpu": "CPU", "philox": "NV"}, {"gpu": "philox", "cuda": "philox"})
EMPHASES = Names({mode.lower(): mode for mode in ("Original", "No norm", "Ignore", "None")})
RESIZES = Names({"stretch": "Just resize", "crop": "Crop and resize", "fill": "Resize and fill"})
FILLS = Names({"original": "original", "fill": "fill", "noise": "latent noise", "nothing": "latent nothing"})
UPSCALERS = Names(
    {
        "latent": "Latent",
        "latent_antialiased": "Latent (antialiased)",
        "latent_bicubic": "Latent (bicubic)",
        "latent_bicubic_antialiased": "Latent (bicubic antialiased)",
        "latent_nearest": "Latent (nearest)",
        "latent_nearest_exact": "Latent (nearest-exact)",
        "lanczos": "Lanczos",
        "nearest": "Nearest",
    }
)
MASK_MODES = Names({True: "Inpaint not masked", False: "Inpaint masked"})
AREAS = Names({True: "Only masked", False: "Whole picture"})
YES = Names({True: "True", False: "False"})


def schedule(text: str) -> str | None:
    """A name that nobody knows is kept, and refused where it is used."""
    try:
        return named_schedule(text)
    except SettingError:
        return text


def resolve_names(settings: dict[str, Any]) -> None:
    """Give solver and schedule the names that they have here; a solver's name may carry the schedule's behind it."""
    if settings.get("schedule") is not None:
        settings["schedule"] = schedule(str(settings["schedule"]))
    try:
        settings["solver"], carried = named_solver(str(settings.get("solver") or ""))
    except SettingError:
        return
    if settings.get("schedule") is None:
        settings["schedule"] = carried


@dataclass(frozen=True)
class Row:
    """An entry `name: text`. It is left out for None and the `default`, and unless the setting `within` is on."""

    name: str
    setting: str
    read: Callable[[str], Any] = str
    write: Callable[[Any], str] = str
    default: Any = None
    within: str | None = None


INTERVAL = r"(?<=\d)-"  # between two numbers, not in 1e-05
SIZE = "size"  # stands for width and height
ROWS = (
    Row("Steps", "steps", whole),
    Row("Sampler", "solver", write=SOLVERS.write),
    Row("Schedule type", "schedule", write=SCHEDULES.write),
    Row("CFG scale", "guidance", number, exact),
    Row("Seed", "seed", whole),
    Row("Size", SIZE, numbers("x", 2, whole), "{0[0]}x{0[1]}".format),
    Row("Model hash", "model_hash"),
    Row("Model", "model", write=stem),
    Row("Variation seed", "variation_seed", whole),
    Row("Variation seed strength", "variation_strength", number, exact, default=0),
    Row("Denoising strength", "strength", number, exact),
    Row("Denoising strength", "hires_strength", number, exact, within="hires"),
    Row("Clip skip", "clip_skip", layers),
    Row("RNG", "rng", RNGS.read, RNGS.write),
    Row("Tiling", "seamless", YES.read, YES.write, default=False),
    Row("Eta", "eta", number, exact),
    Row("Emphasis", "emphasis", EMPHASES.read, EMPHASES.write, default="original"),
    Row("Resize mode", "resize", RESIZES.read, RESIZES.write, default="stretch", within="strength"),
    Row("Mask mode", "invert", MASK_MODES.read, MASK_MODES.write, default=False, within="strength"),
    Row("Mask blur", "mask_blur", whole, within="strength"),
    Row("Inpaint area", "only_masked", AREAS.read, AREAS.write, default=False, within="strength"),
    Row("Masked area padding", "padding", whole, within="only_masked"),
    Row("Masked content", "fill", FILLS.read, FILLS.write, within="strength"),
    Row("Hires upscale", "hires", number, exact),
    Row("Hires steps", "hires_steps", whole, within="hires"),
    Row("Hires upscaler", "hires_upscaler", UPSCALERS.read, UPSCALERS.write, within="hires"),
    # known to eyesel alone
    Row("Guidance rescale", "guidance_rescale", number, exact, default=0),
    Row(
        "Guidance interval", "guidance_interval", numbers(INTERVAL, 2, number), lambda ends: "-".join(map(exact, ends))
    ),
    Row("Expand", "expand", numbers(",", 4, whole), lambda sides: ", ".join(map(str, sides))),
    Row("Style content", "content"),
    Row("Styles", "styles", texts, lambda names: json.dumps(names, ensure_ascii=False)),
    Row("Style weights", "style_weights", several(number), lambda weights: ", ".join(map(exact, weights))),
    Row("Style strength", "style_strength", number, exact),
    Row("Style gamma", "style_gamma", number, exact),
    Row("Style temperature", "style_temperature", number, exact),
    Row("Style layers", "style_layers", several(whole), lambda numbers: ", ".join(map(str, numbers))),
    Row("Style color", "style_color", number, exact, default=1),
    Row("Style match", "style_match", number, exact, default=0),
    Row("Faithful", "faithful", YES.read, YES.write, default=False),
    Row("Version", "version"),
)
READ_ALSO = {"Eta DDIM": "Eta", "Scheduler": "Schedule type"}


def is_default(setting: str, value: Any) -> bool:
    """Whether a setting is one that need not be said."""
    return any(row.setting == setting and row.default is not None and value == row.default for row in ROWS)
