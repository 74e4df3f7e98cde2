"""txt2img and img2img: what the fields of a request are as settings."""

from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from eyesel.diffusion.aliases import AUTOMATIC, named_schedule, named_solver, plain
from eyesel.diffusion.catalogue import SOLVERS
from eyesel.errors import SettingError
from eyesel.images import inverted
from eyesel.infotext.rows import EMPHASES, UPSCALERS
from eyesel.infotext.text import AUTOMATICALLY
from eyesel.serve.dialects.automatic1111.fields import RANDOM, ImageToImage, Processing, TextToImage, check_neutral
from eyesel.serve.dialects.automatic1111.options import RNGS, Options
from eyesel.serve.errors import ApiError
from eyesel.serve.jobs import Task

USUAL_SIDE = 512  # of a picture of which only one side is said
HIRES_STRENGTH = 0.75
RESIZES = ("stretch", "crop", "fill")
FILLS = ("fill", "original", "noise", "nothing")


@dataclass(frozen=True)
class Work:
    """What the engine is asked for."""

    task: Task
    settings: dict[str, Any]
    images: dict[str, Any]
    n: int


def work(asked: Processing, options: Options) -> Work:
    """What both kinds of requests say alike. Raises `ApiError` 422, and 400 for samplers and schedulers."""
    check_neutral(asked)
    solver, schedule = _sampler(asked.sampler_name or asked.sampler_index or "Euler", asked.scheduler)
    layers = asked.clip_skip or options.CLIP_stop_at_last_layers
    settings = {
        "prompt": asked.prompt,
        "negative": asked.negative_prompt or None,
        "seed": None if asked.seed == RANDOM else asked.seed,
        "steps": asked.steps,
        "guidance": asked.cfg_scale,
        "solver": solver,
        "schedule": schedule,
        "eta": asked.eta if SOLVERS[solver].eta is not None else None,  # which does something for these alone
        "seamless": bool(asked.tiling),
        "clip_skip": layers if layers > 1 else None,  # 1 is the checkpoint's own, also where that is another
        "rng": RNGS[options.randn_source],
        "emphasis": EMPHASES.read(options.emphasis),
        "size": _size(asked),
    }
    if asked.subseed_strength:
        settings["variation_strength"] = asked.subseed_strength
        settings["variation_seed"] = None if asked.subseed == RANDOM else asked.subseed
    return Work("generate", settings, {}, (asked.batch_size or 1) * (asked.n_iter or 1))


def text_to_image(asked: TextToImage, options: Options) -> Work:
    return replace(done := work(asked, options), settings=done.settings | _hires(asked, done.settings))


def image_to_image(asked: ImageToImage, options: Options, image: Image.Image, mask: Image.Image | None) -> Work:
    """`image` and `mask` are the opened pictures; the mask is RGBA."""
    done = work(asked, options)
    settings = {**done.settings, "strength": 0.75 if asked.denoising_strength is None else asked.denoising_strength}
    if settings["size"] is not None:
        settings["resize"] = RESIZES[asked.resize_mode or 0]
    if mask is None:
        return replace(done, settings=settings, images={"image": image})
    blurs = {asked.mask_blur_x, asked.mask_blur_y} - {None}
    if asked.mask_blur is None and len(blurs) > 1:
        raise ApiError(422, "mask_blur_x and mask_blur_y differ; edges are softened alike here.", "mask_blur_y")
    blur = asked.mask_blur if asked.mask_blur is not None else next(iter(blurs), 4)
    settings |= {
        "mask_blur": blur,
        "fill": FILLS[asked.inpainting_fill or 0],
        "invert": bool(asked.inpainting_mask_invert),
        "only_masked": bool(asked.inpaint_full_res),
    }
    if settings["only_masked"]:
        settings["padding"] = asked.inpaint_full_res_padding or 0
        settings.pop("resize", None)  # nothing is resized but the part around the mask
    return replace(done, task="inpaint", settings=settings, images={"image": image, "mask": repainted(mask)})


def repainted(mask: Image.Image) -> Image.Image:
    """White is repainted: of a mask (RGBA) with transparency where it is opaque, else by its luminance."""
    alpha = mask.getchannel("A")
    if inverted(alpha).getbbox() is not None:
        return alpha.point(lambda value: 255 if value > 128 else 0)
    return mask.convert("RGB").convert("L")


def _sampler(name: str, scheduler: str | None) -> tuple[str, str | None]:
    """Solver and schedule. "Automatic" is what the program does with the sampler, since its pictures are wanted."""
    try:
        solver, carried = named_solver(name)
    except SettingError as error:
        raise ApiError(400, f"sampler_name: {error}", "sampler_name", "sampler_not_found") from None
    if scheduler and plain(scheduler) != AUTOMATIC:
        try:
            return solver, named_schedule(scheduler)
        except SettingError as error:
            raise ApiError(400, f"scheduler: {error}", "scheduler", "scheduler_not_found") from None
    return solver, carried or AUTOMATICALLY.get(solver)


def _size(asked: Processing) -> tuple[int, int] | None:
    if asked.width is None and asked.height is None:
        return None
    return asked.width or USUAL_SIDE, asked.height or USUAL_SIDE


def _hires(asked: TextToImage, settings: dict[str, Any]) -> dict[str, Any]:
    if not asked.enable_hr:
        return {}
    _check_second_pass(asked, settings)
    upscaler = "Lanczos" if asked.hr_upscaler == "None" else asked.hr_upscaler or "Latent"  # its "None" resizes so, too
    own = UPSCALERS.read(upscaler)
    if own not in UPSCALERS.of:
        known = ", ".join(UPSCALERS.of.values())
        raise ApiError(422, f"hr_upscaler is {upscaler!r:.100}; there are {known}.", "hr_upscaler")
    return {
        "hires": _scale(asked, settings["size"]),
        "hires_steps": asked.hr_second_pass_steps or None,
        "hires_strength": HIRES_STRENGTH if asked.denoising_strength is None else asked.denoising_strength,
        "hires_upscaler": own,
    }


def _check_second_pass(asked: TextToImage, settings: dict[str, Any]) -> None:
    """The second pass has the words and the sampler of the first."""
    for name, first in (("hr_prompt", asked.prompt), ("hr_negative_prompt", asked.negative_prompt)):
        if getattr(asked, name) not in (None, "", first):
            raise ApiError(422, f"{name} is not that of the first pass, which the second pass keeps.", name)
    for name, key in (("hr_sampler_name", "solver"), ("hr_scheduler", "schedule")):
        text = getattr(asked, name)
        if text and not text.startswith("Use same"):
            sampler = text if key == "solver" else asked.sampler_name or asked.sampler_index or "Euler"
            pair = dict(
                zip(("solver", "schedule"), _sampler(sampler, text if key == "schedule" else None), strict=True)
            )
            if pair[key] != settings[key]:
                raise ApiError(422, f"{name} is {text!r:.100}; the second pass keeps that of the first.", name)


def _scale(asked: TextToImage, size: tuple[int, int] | None) -> float:
    wanted = asked.hr_resize_x or 0, asked.hr_resize_y or 0
    if not any(wanted):
        return 2.0 if asked.hr_scale is None else asked.hr_scale
    if size is None:
        raise ApiError(422, "hr_resize_x and hr_resize_y need width and height: give them.", "hr_resize_x")
    scales = {side / first for side, first in zip(wanted, size, strict=True) if side}
    if len(scales) > 1:
        raise ApiError(
            422, f"hr_resize_x and hr_resize_y make {wanted[0]}x{wanted[1]} of other proportions.", "hr_resize_y"
        )
    return scales.pop()
