"""The fields of txt2img and img2img, with AUTOMATIC1111's names and defaults.

One default differs: without `width` and `height` a picture has the size that the checkpoint was trained at, or that of
the picture that it starts from. Fields that do something only beside others (the `hr_` ones beside `enable_hr`, those
of a mask) may stand there without them, as they do in the requests of all clients. What would do something that cannot
be done here is refused, unless it has the value at which it does nothing (`NEUTRAL`). The program drops what it does
not know; here only what clients are known to send to themselves is dropped (`CLIENTS_OWN`).
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from eyesel.serve.dialects.parameters import Number, Said, Whole
from eyesel.serve.errors import ApiError

RANDOM = -1

# What clients send along for themselves, to any route.
CLIENTS_OWN = frozenset(
    {"url", "auth"}  # SillyTavern
    | {"mode", "selection_info", "uniqueDocumentId", "original_prompt", "original_negative_prompt"}  # Auto-Photoshop
    | {"use_prompt_shortcut", "prompt_shortcut_ui_dict", "use_sharp_mask", "mask_expansion", "expanded_mask"}
)

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
    "mask_round": (True,),
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


class Asked(Said):
    """A request, without what its client sends to itself."""

    @model_validator(mode="before")
    @classmethod
    def _without_the_clients_own(cls, said: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in said.items() if name not in CLIENTS_OWN}


class Processing(Asked):
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
    mask_round: Any = None


def check_neutral(asked: Processing) -> None:
    """Refuse with a 422 what would do something that cannot be done here."""
    for name in NEUTRAL.keys() & type(asked).model_fields.keys():
        value = getattr(asked, name)
        if value is not None and not any(value == neutral for neutral in NEUTRAL[name]):
            raise ApiError(422, f"{name} is {value!r:.100}, which cannot be done here: leave it out.", name)
