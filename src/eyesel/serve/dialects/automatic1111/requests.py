"""txt2img and img2img: AUTOMATIC1111's fields with its defaults, and what they are as settings.

One default differs: without `width` and `height` a picture has the size that the checkpoint was trained at, or that of
the picture that it starts from. Fields that do something only beside others (the `hr_` ones beside `enable_hr`, those
of a mask) may stand there without them, as they do in the requests of all clients. What would do something that cannot
be done here is refused, unless it has the value at which it does nothing (`NEUTRAL`).
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import Field

from eyesel.diffusion.aliases import AUTOMATIC, named_schedule, named_solver, plain
from eyesel.errors import SettingError
from eyesel.images import inverted
from eyesel.infotext.rows import EMPHASES, UPSCALERS
from eyesel.infotext.text import AUTOMATICALLY
from eyesel.serve.dialects.automatic1111.options import RNGS, Options
from eyesel.serve.dialects.parameters import Number, Said, Whole
from eyesel.serve.errors import ApiError
from eyesel.serve.jobs import Task

USUAL_SIDE = 512  # of a picture of which only one side is said
RANDOM = -1
HIRES_STRENGTH = 0.75
RESIZES = ("stretch", "crop", "fill")
FILLS = ("fill", "original", "noise", "nothing")

# What can only have these values, or null: they ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "styles": ([],),
    "seed_resize_from_h": (-1, 0),
    "seed_resize_from_w": (-1, 0),
    "restore_faces": (False,),
    "s_min_uncond": (0,),
    "s_churn": (0,),
    "s_tmin": (0,),
    "s_tmax": (0,),
    "s_noise": (1,),
    "refiner_checkpoint": ("", "None"),
    "disable_extra_networks": (False,),
    "firstpass_image": (),
    "firstphase_width": (0,),
    "firstphase_height": (0,),
    "comments": ({},),
    "script_name": ("", "None"),
    "script_args": ([],),
    "alwayson_scripts": ({},),
    "force_task_id": ("",),
    "infotext": ("",),
    "latent_mask": (),
    "initial_noise_multiplier": (1,),
    "image_cfg_scale": (1.5,),  # for checkpoints of another kind
    "hr_checkpoint_name": ("", "None", "Use same checkpoint"),
    "hr_additional_modules": ([], ["Use same choices"]),  # Forge
}

# eyesel's settings, as the client knows them
NAMES = {
    "negative": "negative_prompt",
    "guidance": "cfg_scale",
    "solver": "sampler_name",
    "schedule": "scheduler",
    "size": "width",
    "strength": "denoising_strength",
    "resize": "resize_mode",
    "seamless": "tiling",
    "variation_seed": "subseed",
    "variation_strength": "subseed_strength",
    "fill": "inpainting_fill",
    "only_masked": "inpaint_full_res",
    "padding": "inpaint_full_res_padding",
    "invert": "inpainting_mask_invert",
    "hires": "hr_scale",
    "hires_steps": "hr_second_pass_steps",
    "hires_strength": "denoising_strength",
    "hires_upscaler": "hr_upscaler",
    "clip_skip": "CLIP_stop_at_last_layers",
    "rng": "randn_source",
    "image": "init_images",
    "n": "batch_size",
    "model": "sd_model_checkpoint",
}


class Processing(Said):
    """What txt2img and img2img have in common."""

    prompt: str | None = ""
    negative_prompt: str | None = ""
    styles: Any = None
    seed: Whole | None = RANDOM
    subseed: Whole | None = RANDOM
    subseed_strength: Number | None = 0
    seed_resize_from_h: Any = None
    seed_resize_from_w: Any = None
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    steps: Whole | None = 50
    cfg_scale: Number | None = 7.0
    width: Whole | None = None
    height: Whole | None = None
    batch_size: Annotated[Whole, Field(ge=1)] | None = 1
    n_iter: Annotated[Whole, Field(ge=1)] | None = 1
    restore_faces: Any = None
    tiling: bool | None = None
    denoising_strength: Number | None = None
    eta: Number | None = None
    s_min_uncond: Any = None
    s_churn: Any = None
    s_tmin: Any = None
    s_tmax: Any = None
    s_noise: Any = None
    override_settings: dict[str, Any] | None = None
    override_settings_restore_afterwards: bool | None = True
    refiner_checkpoint: Any = None
    refiner_switch_at: Any = None
    disable_extra_networks: Any = None
    firstpass_image: Any = None
    comments: Any = None
    script_name: Any = None
    script_args: Any = None
    alwayson_scripts: Any = None
    force_task_id: Any = None
    infotext: Any = None
    send_images: bool | None = True
    save_images: bool | None = False
    do_not_save_samples: bool | None = False
    do_not_save_grid: bool | None = False
    clip_skip: Whole | None = Field(None, description="of SD.Next, for CLIP_stop_at_last_layers")
    url: str | None = Field(None, description="sent by SillyTavern to itself")
    auth: str | None = Field(None, description="sent by SillyTavern to itself")


class TextToImage(Processing):
    enable_hr: bool | None = False
    hr_scale: Number | None = 2.0
    hr_upscaler: str | None = None
    hr_second_pass_steps: Annotated[Whole, Field(ge=0)] | None = 0
    hr_resize_x: Annotated[Whole, Field(ge=0)] | None = 0
    hr_resize_y: Annotated[Whole, Field(ge=0)] | None = 0
    hr_prompt: str | None = ""
    hr_negative_prompt: str | None = ""
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    hr_checkpoint_name: Any = None
    hr_additional_modules: Any = None
    firstphase_width: Any = None
    firstphase_height: Any = None


class ImageToImage(Processing):
    init_images: list[str] | None = None
    resize_mode: Literal[0, 1, 2] | None = Field(0, description="stretch, crop, fill")
    mask: str | None = Field(None, description="white is repainted")
    mask_blur: Whole | None = None
    mask_blur_x: Whole | None = None
    mask_blur_y: Whole | None = None
    inpainting_fill: Literal[0, 1, 2, 3] | None = 0
    inpaint_full_res: bool | None = True
    inpaint_full_res_padding: Whole | None = 0
    inpainting_mask_invert: Literal[0, 1] | bool | None = 0
    include_init_images: bool | None = False
    image_cfg_scale: Any = None
    initial_noise_multiplier: Any = None
    latent_mask: Any = None


@dataclass(frozen=True)
class Work:
    """What the engine is asked for."""

    task: Task
    settings: dict[str, Any]
    images: dict[str, Any]
    n: int


def work(asked: Processing, options: Options) -> Work:
    """What both kinds of requests say alike. Raises `ApiError` 422, and 400 for samplers and schedulers."""
    for name in NEUTRAL.keys() & type(asked).model_fields.keys():
        value = getattr(asked, name)
        if value is not None and not any(value == neutral for neutral in NEUTRAL[name]):
            raise ApiError(422, f"{name} is {value!r:.100}, which cannot be done here: leave it out.", name)
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
        "eta": asked.eta,
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
