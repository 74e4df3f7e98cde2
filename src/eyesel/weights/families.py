"""What a single file does not say about itself: the facts of each family of Stable Diffusion, as data.

Sources: the configs of the published diffusers folders (runwayml/stable-diffusion-v1-5, stabilityai/stable-diffusion-2,
-2-base, -xl-base-1.0, -xl-refiner-1.0) and the inference configs of CompVis' and Stability's repositories.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eyesel.weights.ldm_format import CLIP_L, OPEN_CLIP, OPEN_CLIP_SD2
from eyesel.weights.rename import RenameTable

EPSILON, V_PREDICTION = "epsilon", "v_prediction"


@dataclass(frozen=True)
class TextEncoder:
    """One of a family's text encoders: where it is in a single file and in a folder."""

    prefix: str
    table: RenameTable
    folder: str = "text_encoder"
    activation: str = "quick_gelu"
    pad: str = "<|endoftext|>"


@dataclass(frozen=True)
class Family:
    """`architecture` is its name in modelspec metadata; `heads` None means heads that are 64 wide; `size_numbers` are
    told to the UNet besides the pooled prompt (the refiner takes an aesthetic score for the target's height and width).
    """

    name: str
    architecture: str
    pipeline: str
    inpainting_pipeline: str
    text_encoders: tuple[TextEncoder, ...]
    scaling_factor: float = 0.18215
    sample_size: int = 64
    heads: int | None = None
    size_numbers: int = 0

    def is_in(self, names: Iterable[str]) -> bool:
        """Whether tensors of these names are a single file of this family."""
        names = list(names)
        return all(any(name.startswith(encoder.prefix) for name in names) for encoder in self.text_encoders)


SD1 = Family(
    "Stable Diffusion 1",
    "stable-diffusion-v1",
    "StableDiffusionPipeline",
    "StableDiffusionInpaintPipeline",
    (TextEncoder("cond_stage_model.transformer.", CLIP_L),),
    heads=8,
)
SD2 = Family(
    "Stable Diffusion 2",
    "stable-diffusion-v2-512",
    "StableDiffusionPipeline",
    "StableDiffusionInpaintPipeline",
    (TextEncoder("cond_stage_model.model.", OPEN_CLIP_SD2, activation="gelu", pad="!"),),
)
SDXL = Family(
    "Stable Diffusion XL",
    "stable-diffusion-xl-v1-base",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLInpaintPipeline",
    (
        TextEncoder("conditioner.embedders.0.transformer.", CLIP_L),
        TextEncoder("conditioner.embedders.1.model.", OPEN_CLIP, "text_encoder_2", "gelu", "!"),
    ),
    scaling_factor=0.13025,
    sample_size=128,
    size_numbers=6,
)
REFINER = Family(
    "Stable Diffusion XL refiner",
    "stable-diffusion-xl-v1-refiner",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    (TextEncoder("conditioner.embedders.0.model.", OPEN_CLIP, "text_encoder_2", "gelu", "!"),),
    scaling_factor=0.13025,
    sample_size=128,
    size_numbers=5,
)
FAMILIES = (SDXL, REFINER, SD2, SD1)

_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


@dataclass(frozen=True)
class Prediction:
    """What the network was trained to predict, whether up to pure noise, and the rules that said so."""

    type: str = EPSILON
    zero_terminal_snr: bool = False
    rule: str = ""


def scheduler_config(family: Family, prediction: Prediction) -> dict[str, Any]:
    """The scheduler_config.json of a family. PNDM, that of SD 1 and 2, has no betas up to pure noise, so DDIM stands in
    for v-prediction, as in stabilityai/stable-diffusion-2.
    """
    config: dict[str, Any] = {
        **_BETAS,
        "trained_betas": None,
        "prediction_type": prediction.type,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }
    if family.size_numbers:
        config |= {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear", "use_karras_sigmas": False}
    elif prediction.type == EPSILON and not prediction.zero_terminal_snr:
        config |= {"_class_name": "PNDMScheduler", "set_alpha_to_one": False, "skip_prk_steps": True}
    else:
        config |= {"_class_name": "DDIMScheduler", "set_alpha_to_one": False, "clip_sample": False}
    if prediction.zero_terminal_snr:  # only trailing spacing visits the last timestep (Lin et al. 2024, section 3.3)
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config


def betas_are_usual(scheduler: Mapping[str, Any]) -> bool:
    """Whether a scheduler_config.json has the betas that every family shares, as a single file implies."""
    defaults = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}
    return not scheduler.get("trained_betas") and {**defaults, **scheduler}.items() >= _BETAS.items()


def pipeline_index(family: Family, scheduler: Mapping[str, Any], inpainting: bool) -> dict[str, Any]:
    """The model_index.json of a family."""
    pipeline = family.inpainting_pipeline if inpainting else family.pipeline
    two = family.text_encoders[-1].folder == "text_encoder_2"
    has = {encoder.folder for encoder in family.text_encoders}

    def entry(folder: str, name: str) -> list[str | None]:
        return ["transformers", name] if folder in has else [None, None]

    index: dict[str, Any] = {
        "_class_name": pipeline,
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "text_encoder": entry("text_encoder", "CLIPTextModel"),
        "tokenizer": entry("text_encoder", "CLIPTokenizer"),
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if two:
        index |= {
            "text_encoder_2": entry("text_encoder_2", "CLIPTextModelWithProjection"),
            "tokenizer_2": entry("text_encoder_2", "CLIPTokenizer"),
            "force_zeros_for_empty_prompt": family is SDXL,
        }
    else:
        index |= {
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
        }
    if family is REFINER:
        index["requires_aesthetics_score"] = True
    return index
