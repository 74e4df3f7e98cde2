"""How a picture is painted, apart from its words: every setting with its default, checked in one place."""

from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Annotated, Any

from eyesel.errors import SettingError
from eyesel.fields import Count, check_fields

FILLS = {
    "original": "the picture as it is",
    "fill": "the colours around the mask, smoothly",
    "noise": "noise",
    "nothing": "zeros",
}
HIRES_UPSCALERS = {
    "latent": "the latents, linearly",
    "latent_antialiased": "the same, antialiased",
    "latent_bicubic": "the latents, by cubics",
    "latent_bicubic_antialiased": "the same, antialiased",
    "latent_nearest": "the latents, each repeated",
    "latent_nearest_exact": "the same, the nearest by their centres",
    "lanczos": "the decoded picture, by Lanczos' filter",
    "nearest": "the decoded picture, each pixel repeated",
}
MOST_HIRES = 8.0
ELSEWHERE = {  # what diffusers and AUTOMATIC1111 call them
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "cfg_scale": "guidance",
    "negative_prompt": "negative",
    "scheduler": "solver",
    "sampler": "solver",
    "sampler_name": "solver",
    "width": "size",
    "height": "size",
    "generator": "seed",
    "denoising_strength": "strength",
    "num_images_per_prompt": "n",
    "mask_image": "mask",
}


@dataclass(frozen=True)
class Settings:
    """The settings of `StableDiffusion.generate`, `inpaint` and `steps`; those of None are the checkpoint's own.

    The words and the solver
        negative: what to stay away from (None: nothing, for which SDXL was trained with zeros)
        steps: as many calls of the network, or twice as many with guidance; None is the checkpoint's own, else 25
        guidance: how closely to follow the prompt, 1 is no guidance; None is the checkpoint's own, else 7.5
        guidance_rescale: how much of guidance's added contrast to take away, 0 to 1
        guidance_interval: (low, high) noise levels within which guidance acts
        solver, schedule: by the names of eyesel, AUTOMATIC1111, ComfyUI or diffusers, such as "DPM++ 2M Karras"
        eta: the share of fresh noise, 0 to 1
        rng: "cpu" draws the noise of diffusers and ComfyUI, "philox" that of AUTOMATIC1111 on GPUs
        size: (width, height) in pixels, multiples of 8; None is what the checkpoint was trained at, or the picture's
        clip_skip: the text encoder's layer, counted from its end
        emphasis: what `(word:1.2)` does: "original", "no norm", "ignore" or "none"
        variation_seed, variation_strength: the first noise goes this far, 0 to 1, to that of the other seed
        seamless: left fits right and top fits bottom, for textures

    Image to image
        strength: how much is made anew: above 0, at most 1; None is 0.75, and 1 where a mask is given
        resize: how the picture comes to `size`: "stretch", "crop" or "fill"

    Inpainting
        mask_blur: how many pixels the edge of the mask is softened by
        fill: what the masked part starts from, one of `FILLS`; None is the picture, or at strength 1 noise alone
        only_masked, padding: the part around the mask, this many pixels wider, is repainted at the full `size`
        invert: black is repainted, not white
        expand: (left, top, right, bottom) pixels of new canvas to paint on

    Two passes
        hires: the picture is enlarged by this factor and painted over: more detail than the first size has
        hires_steps, hires_strength, hires_upscaler: of the second pass; None is as many steps as the first
    """

    negative: str | None = None
    steps: int | None = None
    guidance: float | None = None
    guidance_rescale: float = 0.0
    guidance_interval: tuple[float, float] | None = None
    solver: str | None = None
    schedule: str | None = None
    eta: float | None = None
    rng: str = "cpu"
    size: tuple[Count, Count] | None = None
    clip_skip: int | None = None
    emphasis: str = "original"
    variation_seed: Annotated[int, range(2**64)] | None = None
    variation_strength: float = 0.0
    seamless: bool = False
    strength: float | None = None
    resize: str = "stretch"
    mask_blur: Annotated[int, range(257)] = 4
    fill: str | None = None
    only_masked: bool = False
    padding: Count = 32
    invert: bool = False
    expand: tuple[Count, Count, Count, Count] | None = None
    hires: float | None = None
    hires_steps: int | None = None
    hires_strength: float = 0.7
    hires_upscaler: str = "latent"

    def __post_init__(self) -> None:
        check_fields(self, SettingError)
        for name, choices in (("fill", (None, *FILLS)), ("hires_upscaler", HIRES_UPSCALERS)):
            if (value := getattr(self, name)) not in choices:
                raise SettingError(f"{name} is {value!r}; choose one of {', '.join(filter(None, choices))}.")
        if not 0 <= self.variation_strength <= 1:
            raise SettingError(f"variation_strength is {self.variation_strength:g}; it must lie between 0 and 1.")
        if self.hires is not None and not 1 < self.hires <= MOST_HIRES:
            raise SettingError(f"hires is {self.hires:g}; it must be above 1 and at most {MOST_HIRES:g}, such as 2.")

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Settings":
        """From keywords; lists, as JSON has them, are tuples here. An unknown name is refused with its neighbour."""
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                near = ELSEWHERE.get(name) or next(iter(get_close_matches(name, known, 1)), None)
                advice = f"did you mean {near!r}?" if near else f"there are {', '.join(known)}."
                raise SettingError(f"There is no setting {name!r}: {advice}")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
        return cls(**values)

    def _needs(self, image: bool, mask: bool) -> list[tuple[bool, str, tuple[str, ...]]]:
        """Whether something is there, what to do if it is not, and the settings that then mean nothing."""
        masked = image and (mask or self.expand is not None)
        return [
            (image, "needs an image: give one", ("strength", "resize", "expand")),
            (masked, "needs a mask: give one", ("mask_blur", "fill", "only_masked")),
            (image and mask, "needs a mask: give one", ("invert",)),
            (masked and self.only_masked, "needs only_masked: set it", ("padding",)),
            (self.hires is not None, "needs hires: set it", ("hires_steps", "hires_strength", "hires_upscaler")),
            (self.variation_strength > 0, "needs a variation_strength above 0: set it", ("variation_seed",)),
            (not image, "is for painting from words alone: give a larger size instead", ("hires",)),
        ]

    def check_for(self, image: bool, mask: bool) -> None:
        """Refuse what would do nothing, without a picture to start from, or a mask, or the setting that it serves."""
        if mask and not image:
            raise SettingError("There is a mask and no image that it belongs to: give both.")
        defaults = {field.name: field.default for field in fields(self)}
        for given, advice, names in self._needs(image, mask):
            for name in names:
                if not given and (value := getattr(self, name)) != defaults[name]:
                    raise SettingError(f"{name} is {value!r}, which {advice}, or leave it out.")

    def record(self, image: bool, mask: bool) -> dict[str, Any]:
        """Those that mean something for a call with or without a picture and a mask."""
        idle = {name for given, _, names in self._needs(image, mask) if not given for name in names}
        return {name: value for name, value in asdict(self).items() if name not in idle}
