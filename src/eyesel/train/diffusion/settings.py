"""What a fine-tuning of the painter can be told, besides the arguments of the trainer."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from eyesel.errors import SettingError

METHODS = {
    "full": "every weight of the UNet",
    "lora": "small factors beside the attention (Hu et al. 2021)",
    "dreambooth": "one subject from a few pictures, under a name of its own (Ruiz et al. 2023)",
    "textual-inversion": "vectors for a new word, and nothing else (Gal et al. 2022)",
    "inpaint": "every weight of a UNet that repaints what is under a mask",
}
TARGETS = {
    "attention": "queries, keys, values and what follows them, as diffusers' scripts",
    "transformer": "all matrices of the transformers, as kohya's sd-scripts",
    "all": "the convolutions as well (LoCon)",
}
_SIDE = 8192  # pixels, of what is trained on
_COUNTS = {
    "chunks": 100,
    "repeats": 100_000,
    "resolution": _SIDE,
    "bucket_step": _SIDE,
    "min_bucket": _SIDE,
    "max_bucket": 2 * _SIDE,
    "rank": 4096,
    "class_pictures": 100_000,
    "vectors": 1000,
    "validation_steps": 10**9,
}
PRECISIONS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Settings:
    """Of a run. None is the method's or the base's own choice.

    `repeats` shows every picture so often an epoch; `chunks` is how many times 75 tokens of a caption are read. The
    shares `caption_dropout` and `flip` are of 1.
    """

    method: str = "lora"
    # the base
    variant: str | None = None
    vae: str | None = None
    prediction_type: str | None = None
    zero_terminal_snr: bool | None = None
    offline: bool = False
    # captions
    strict: bool = False
    caption_column: str | None = None
    instance_prompt: str | None = None
    shuffle_tags: bool = False
    keep_tokens: int = 0
    caption_dropout: float = 0.0
    chunks: int = 1
    repeats: int = 1
    # pictures
    resolution: int | None = None
    buckets: bool = True
    bucket_step: int | None = None
    min_bucket: int | None = None
    max_bucket: int | None = None
    upscale: bool = True
    flip: bool = False
    cache: str | None = None
    # the loss
    snr_gamma: float | None = None
    noise_offset: float = 0.0
    ema: float | None = None
    # what is trained
    train_text_encoder: bool = False
    lora: bool = False
    rank: int = 4
    alpha: float | None = None
    targets: str = "attention"
    # what is to be kept
    class_prompt: str | None = None
    class_data: str | None = None
    class_pictures: int = 100
    prior_weight: float = 1.0
    # textual inversion
    placeholder: str | None = None
    initializer: str | None = None
    vectors: int | None = None
    learnable_property: str = "object"
    # validation
    validation_prompt: tuple[str, ...] = ()
    validation_steps: int | None = None
    validation_seed: int = 0
    # the result
    save_precision: str = "float32"

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("method", self.method, tuple(METHODS)),
            ("targets", self.targets, tuple(TARGETS)),
            ("learnable_property", self.learnable_property, ("object", "style")),
            ("save_precision", self.save_precision, PRECISIONS),
        ):
            if value not in choices:
                raise SettingError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")
        for name in ("instance_prompt", "class_prompt"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise SettingError(f"{name} is empty: say what the pictures show, or leave it out.")
        for name, most in _COUNTS.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most):
                raise SettingError(f"{name} is {value!r}; it must be a whole number from 1 to {most}.")
        for name, least, most in (
            ("caption_dropout", 0, 1),
            ("keep_tokens", 0, 1000),
            ("noise_offset", 0, 1),
            ("prior_weight", 0, 1000),
            ("validation_seed", 0, 2**63),
        ):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not least <= value <= most:
                raise SettingError(f"{name} is {value!r}; it must be a number from {least} to {most}.")
        if self.snr_gamma is not None and not 0 < self.snr_gamma < math.inf:
            raise SettingError(f"snr_gamma is {self.snr_gamma!r}; it must be more than 0, usually 5.")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise SettingError(f"alpha is {self.alpha!r}; it must be more than 0, usually as much as the rank.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise SettingError(f"ema is {self.ema!r}; it is a decay between 0 and 1, such as 0.9999.")
        self._check_method()

    def _check_method(self) -> None:
        """Settings of another method would do nothing."""
        defaults = {field.name: field.default for field in fields(self)}
        of_method = {
            "lora": (*_LORA, *_PRIOR, "train_text_encoder"),
            "full": ("train_text_encoder",),
            "dreambooth": (*_PRIOR, "lora", "train_text_encoder", *(_LORA if self.lora else ())),
            "textual-inversion": _INVERSION,
            "inpaint": ("train_text_encoder",),
        }
        for name in {*_LORA, *_PRIOR, *_INVERSION, "lora", "train_text_encoder"}:
            if name not in of_method[self.method] and getattr(self, name) != defaults[name]:
                able = [method for method, names in of_method.items() if name in names]
                hint = "dreambooth with lora" if name in _LORA and self.method == "dreambooth" else " and ".join(able)
                raise SettingError(f"{name} does nothing with the method {self.method}: it is for {hint}.")
        if self.class_pictures != defaults["class_pictures"] and not self.class_prompt:
            raise SettingError('class_pictures needs class_prompt, what those pictures show, such as "a dog".')
        if self.prior_weight != defaults["prior_weight"] and not self.class_prompt and not self.class_data:
            raise SettingError("prior_weight needs class_prompt or class_data, what is to be kept.")
        if self.method == "textual-inversion":
            if not self.placeholder:
                raise SettingError('textual-inversion needs placeholder, the new word, such as "<cat-toy>".')
            if not self.initializer:
                raise SettingError("textual-inversion needs initializer, a word to begin from, such as toy.")
        if self.keep_tokens and not self.shuffle_tags:
            raise SettingError("keep_tokens says which tags keep their places: it needs shuffle_tags.")
        if self.validation_steps is not None and not self.validation_prompt:
            raise SettingError("validation_steps needs validation_prompt, what to paint.")

    @property
    def adapts(self) -> bool:
        """Whether LoRA layers are what is trained."""
        return self.method == "lora" or (self.method == "dreambooth" and self.lora)

    def record(self) -> dict[str, Any]:
        """What a run that goes on must have been begun with."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}


_LORA = ("rank", "alpha", "targets")
_PRIOR = ("class_prompt", "class_data", "class_pictures", "prior_weight")
_INVERSION = ("placeholder", "initializer", "vectors", "learnable_property")
_FREE = ("cache", "offline", "strict", "validation_prompt", "validation_steps", "validation_seed", "save_precision")
NAMES = tuple(field.name for field in fields(Settings))
