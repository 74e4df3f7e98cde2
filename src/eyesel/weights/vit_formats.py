"""Which spelling a ViT checkpoint is in, told by its tensor names, and what comes of it: one table a format."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eyesel.models.vit import ViTConfig
from eyesel.weights import vit_google_format as google
from eyesel.weights import vit_timm_format as timm
from eyesel.weights import vit_transformers_format as transformers
from eyesel.weights.rename import RenameTable
from eyesel.weights.views import StoredTensor
from eyesel.weights.vit_google_format import GOOGLE
from eyesel.weights.vit_shape import Shapes
from eyesel.weights.vit_timm_format import TIMM, TIMM_SWIGLU
from eyesel.weights.vit_transformers_format import CLASSIC, TRANSFORMERS, TRANSFORMERS_5

SPELLINGS = {"transformers": CLASSIC, "transformers-5": TRANSFORMERS_5, "timm": TIMM}  # those of a plain ViT
# Names that only a ViT of this spelling has, whatever stands before them; the more specific first.
_TRANSFORMERS_SIGNATURES = (
    "encoder.layer.0.attention.attention.query.weight",
    "encoder.layer.0.attention.q_proj.weight",
    "encoder.layers.0.attention.q_proj.weight",
    "layers.0.attention.q_proj.weight",
)
_TIMM_SIGNATURE = "blocks.0.attn.qkv.weight"
_DINOV2_NAMES = ("mask_token", "register_tokens", "blocks.0.mlp.w12.weight")


@dataclass(frozen=True)
class Spelling:
    """How to read a ViT with these names: `table` and the `tensors` that it reads; `config` makes a ViTConfig of a
    config.json, `guess` does without one. `origin` is who wrote such files.
    """

    origin: str
    table: RenameTable
    tensors: Mapping[str, StoredTensor]
    config: Callable[[Mapping[str, Any], Shapes], ViTConfig]
    guess: Callable[[Shapes], ViTConfig]


def spelling(tensors: Mapping[str, StoredTensor]) -> Spelling | None:
    """None if they are not a ViT's."""
    if any(name.endswith(google.SIGNATURE) for name in tensors):
        heads = google.heads_of(tensors)
        return Spelling(
            "google",
            GOOGLE,
            google.as_torch(tensors),
            transformers.config_of,
            lambda shapes: google.config_of_tensors(shapes, heads),
        )
    for signature in _TRANSFORMERS_SIGNATURES:
        if (prefix := _prefix(tensors, signature)) is not None:
            return Spelling(
                "transformers",
                TRANSFORMERS,
                _without(tensors, prefix),
                transformers.config_of,
                transformers.config_of_tensors,
            )
    prefix = _prefix(tensors, _TIMM_SIGNATURE)
    if prefix is None:
        return None
    bare = _without(tensors, prefix)
    dinov2 = any(name in bare for name in _DINOV2_NAMES)
    return Spelling(
        "meta" if dinov2 or "head.weight" not in bare else "timm",
        TIMM_SWIGLU if timm.is_packed({name: stored.shape for name, stored in bare.items()}) else TIMM,
        bare,
        timm.config_of,
        lambda shapes: timm.config_of_tensors(shapes, dinov2),
    )


def _prefix(names: Iterable[str], signature: str) -> str | None:
    """What stands before a signature, such as "vit." or "module.backbone."."""
    for name in names:
        if name == signature or name.endswith(f".{signature}"):
            return name.removesuffix(signature)
    return None


def _without(tensors: Mapping[str, StoredTensor], prefix: str) -> dict[str, StoredTensor]:
    """The tensors without the prefix; those beside the backbone, such as a head, without what wraps it."""
    wrapper = prefix[: prefix[:-1].rfind(".") + 1]  # "module." of "module.vit."
    return {
        name.removeprefix(prefix if name.startswith(prefix) else wrapper): stored for name, stored in tensors.items()
    }
