"""What can be said of an order before it is queued: everything that needs no network and no pixel."""

import secrets
from dataclasses import fields
from typing import Any

from eyesel.diffusion import from_scheduler_config
from eyesel.errors import SettingError
from eyesel.run import check_task, whole_seed
from eyesel.serve.errors import ApiError
from eyesel.serve.options import Limits
from eyesel.settings import Settings
from eyesel.stable_diffusion import StableDiffusion
from eyesel.stylize import StyleSettings
from eyesel.text.prompt import loras

NAMES = frozenset(
    {field.name for kind in (Settings, StyleSettings) for field in fields(kind)}
    | {"prompt", "seed", "n", "model", "image", "mask", "style", "weights", "priority", "opacity"}
    | {"top_k", "function_to_apply", "pool", "layer", "normalize"}
    | {"method", "head", "fusion", "discard_ratio", "target", "mask_outliers", "outlier_ratio"}
)
MOST_BLURRING = 1_000_000_000  # pixels of a picture times those of the blur of its mask
IMAGES = {"generate": {"image"}, "inpaint": {"image", "mask"}, "stylize": {"image", "style", "mask"}}
NEEDED = {"generate": set(), "inpaint": {"image"}, "stylize": {"image", "style"}}


def check_order(task: str, settings: dict[str, Any], images: dict[str, Any], n: int, limits: Limits) -> list[int]:
    """The seeds of an order. Raises `ApiError`, or `EyeselError` for what the settings themselves refuse."""
    for name in images:
        if name not in IMAGES[task]:
            raise ApiError(422, f"{task} takes no picture {name!r}.", name, "unknown_parameter")
    for name in sorted(NEEDED[task] - set(images)):
        raise ApiError(422, f"{task} needs a picture {name!r}: give one.", name, "missing_parameter")
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= limits.n:
        raise ApiError(400, f"n is {n!r}; it must be a whole number from 1 to {limits.n}.", "n", "invalid_request")
    said = dict(settings)
    seed, prompt = said.pop("seed", None), said.pop("prompt", None)
    _check_prompts({"prompt": prompt, "negative": said.get("negative")}, limits)
    if task == "stylize":
        _check_style(said, seed, prompt, images, n, limits)
        return [0]
    return _check_painting(task, said, seed, prompt, images, n, limits)


def _check_prompts(prompts: dict[str, Any], limits: Limits) -> None:
    for name, text in prompts.items():
        if text is None:
            continue
        if not isinstance(text, str):
            raise ApiError(400, f"{name} is {text!r:.100}; it must be a text.", name, "invalid_request")
        if len(text) > limits.prompt:
            raise ApiError(
                400,
                f"{name} has {len(text):,} characters; this server takes {limits.prompt:,} at most.",
                name,
                "too_long",
            )


def _check_style(
    said: dict[str, Any], seed: Any, prompt: str | None, images: dict[str, Any], n: int, limits: Limits
) -> None:
    if seed is not None or n != 1:
        raise ApiError(
            400,
            "Style transfer draws nothing by chance: leave out seed, and take n 1.",
            "n" if seed is None else "seed",
            "invalid_request",
        )
    weights = said.pop("weights", [])
    if not isinstance(weights, list | tuple) or not all(type(each) in (int, float) for each in weights):
        raise ApiError(
            400, "weights must be a list of numbers, one for each style, such as [2, 1].", "weights", "invalid_request"
        )
    chosen = StyleSettings.of(said)
    _check_steps(chosen.steps * chosen.looks, limits, "steps" if chosen.looks == 1 else "looks")
    check_sizes(limits, "longest" if chosen.longest else "image", _scaled(images["image"].size, chosen.longest))
    if prompt is not None:
        loras(prompt)


def _check_painting(
    task: str, said: dict[str, Any], seed: Any, prompt: str | None, images: dict[str, Any], n: int, limits: Limits
) -> list[int]:
    if prompt is None or not loras(prompt)[0].strip():
        raise ApiError(400, "The prompt is empty: say what to paint.", "prompt", "missing_parameter")
    chosen = Settings.of(said)
    chosen.check_for("image" in images, "mask" in images)
    if task == "inpaint" and "mask" not in images and chosen.expand is None:
        raise ApiError(422, "inpaint needs a mask, or to expand the canvas.", "mask", "missing_parameter")
    _check_steps(chosen.steps, limits)
    _check_steps(chosen.hires_steps, limits, "hires_steps")
    if chosen.size is not None:
        check_sizes(limits, "size", chosen.size, chosen.hires)
    if "image" in images:
        _check_canvas(chosen, images["image"].size, limits)
    first = secrets.randbelow(2**32) if seed is None else seed
    if chosen.variation_strength:
        return [whole_seed(first, 1)] * n
    return [whole_seed(first, n) + i for i in range(n)]


def _check_canvas(chosen: Settings, size: tuple[int, int], limits: Limits) -> None:
    """Of what is painted over a picture of `size`; a part of a large one may be."""
    left, top, right, bottom = chosen.expand or (0, 0, 0, 0)
    whole = size[0] + left + right, size[1] + top + bottom
    if not chosen.only_masked and chosen.size is None:
        check_sizes(limits, "expand" if chosen.expand else "image", whole)
    pixels = whole[0] * whole[1]
    if pixels > limits.pixels:
        raise ApiError(
            400,
            f"The canvas is {whole[0]}x{whole[1]} pixels; this server takes {limits.pixels:,}.",
            "expand",
            "too_large",
        )
    most = MOST_BLURRING // pixels
    if chosen.mask_blur > max(most, 4):
        raise ApiError(
            400,
            f"mask_blur is {chosen.mask_blur}; for a picture of {whole[0]}x{whole[1]} pixels this server takes {most}.",
            "mask_blur",
            "too_large",
        )


def _scaled(size: tuple[int, int], longest: int | None) -> tuple[int, int]:
    factor = 1.0 if longest is None else longest / max(size)
    return round(size[0] * factor), round(size[1] * factor)


def _check_steps(steps: int | None, limits: Limits, name: str = "steps") -> None:
    if steps is not None and steps > limits.steps:
        raise ApiError(400, f"These are {steps} {name}; this server makes {limits.steps} at most.", name, "too_many")


def check_sizes(limits: Limits, name: str, size: tuple[int, int], factor: float | None = None) -> None:
    """Raise a 400 of the field `name` for pictures that are larger than the server paints."""
    width, height = (round(side * (factor or 1)) for side in size)
    if width * height > limits.painted:
        raise ApiError(
            400,
            f"The picture would be {width}x{height} pixels; this server paints {limits.painted:,} at most.",
            name,
            "too_large",
        )


def check_painter(
    easel: StableDiffusion, task: str, settings: dict[str, Any], images: dict[str, Any], limits: Limits
) -> None:
    """What a loaded painter can say besides: sizes, and solvers. Raises `SettingError` and `ApiError`."""
    if task == "stylize":
        if easel.inpaints:
            raise SettingError("model is an inpainting checkpoint, which cannot be inverted: take an ordinary one.")
        return
    chosen = Settings.of({name: value for name, value in settings.items() if name not in ("prompt", "seed")})
    if not images:
        check_task(easel, None)
        check_sizes(limits, "hires" if chosen.hires else "size", easel.picture_size(chosen.size), chosen.hires)
    from_scheduler_config(easel.scheduler, chosen.solver, chosen.eta, chosen.schedule, xl=easel.is_xl)
