"""transformers' CLIP encoders, with the `text_model.` or `vision_model.` prefix (before version 5) or without."""

from collections.abc import Mapping
from typing import Any

from eyesel.errors import CheckpointError
from eyesel.models.clip_text import ClipTextConfig
from eyesel.models.clip_vision import ClipVisionConfig
from eyesel.weights.rename import RenameTable, Target

_LAYERS: dict[str, Target] = {
    "embeddings.position_ids": None,  # 0, 1, 2, ...: a buffer of old versions
    "encoder.layers.{}.self_attn.q_proj.{}": "layers.{}.attention.to_q.{}",
    "encoder.layers.{}.self_attn.k_proj.{}": "layers.{}.attention.to_k.{}",
    "encoder.layers.{}.self_attn.v_proj.{}": "layers.{}.attention.to_v.{}",
    "encoder.layers.{}.self_attn.out_proj.{}": "layers.{}.attention.to_out.{}",
    "encoder.layers.{}.layer_norm1.{}": "layers.{}.norm1.{}",
    "encoder.layers.{}.layer_norm2.{}": "layers.{}.norm2.{}",
    "encoder.layers.{}.mlp.{}.{}": "layers.{}.mlp.{}.{}",
}
CLIP_TEXT = RenameTable(
    {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "position_embedding.weight",
        **_LAYERS,
        "final_layer_norm.{}": "final_layer_norm.{}",
        "text_projection.weight": "text_projection.weight",
    },
    prefix="text_model.",
    unprefixed=("text_projection.",),
)
CLIP_VISION = RenameTable(
    {
        "embeddings.class_embedding": "cls_token",
        "embeddings.patch_embedding.weight": "patch_embeddings.weight",
        "embeddings.position_embedding.weight": "position_embeddings",
        "pre_layrnorm.{}": "norm_in.{}",  # transformers' spelling
        **_LAYERS,
        "post_layernorm.{}": "norm_out.{}",
        "visual_projection.weight": "projection.weight",
    },
    prefix="vision_model.",
    unprefixed=("visual_projection.",),
)


def from_transformers_config(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> ClipTextConfig:
    eos = config.get("eos_token_id", 2)
    return ClipTextConfig(
        vocab_size=config.get("vocab_size", 49408),
        max_length=config.get("max_position_embeddings", 77),
        dim=config.get("hidden_size", 512),
        depth=config.get("num_hidden_layers", 12),
        heads=config.get("num_attention_heads", 8),
        mlp_dim=config.get("intermediate_size", 2048),
        activation=config.get("hidden_act", "quick_gelu"),
        norm_eps=config.get("layer_norm_eps", 1e-5),
        # transformers wrote 2 for years whatever the vocabulary, and treats it as "the highest id"
        eos_id=None if eos == 2 else eos,
        projection_dim=shapes.get("text_projection.weight", (None,))[0],
    )


def transformers_config(config: ClipTextConfig) -> dict[str, Any]:
    """The way back: text_encoder/config.json."""
    return {
        "architectures": ["CLIPTextModelWithProjection" if config.projection_dim else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_length,
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": config.activation,
        "layer_norm_eps": config.norm_eps,
        "projection_dim": config.projection_dim or config.dim,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2 if config.eos_id is None else config.eos_id,  # 2: the highest id of the vocabulary
    }


# What a file without a config.json leaves unsaid: heads and activation of the published widths (B, L, H, bigG).
_VISION = {768: (12, "quick_gelu"), 1024: (16, "quick_gelu"), 1280: (16, "gelu"), 1664: (16, "gelu")}


def vision_config(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> ClipVisionConfig:
    """Sizes are read off the tensors, by our names; `config` is transformers' config.json, or empty."""
    config = config.get("vision_config", config)
    dim, channels, patch_size, _ = shapes["patch_embeddings.weight"]
    heads, activation = _VISION.get(dim, (None, "quick_gelu"))
    heads = config.get("num_attention_heads", heads)
    if heads is None:
        raise CheckpointError(f"An image encoder of width {dim} does not say how many heads it has: give its folder.")
    patches = shapes["position_embeddings"][0] - 1
    return ClipVisionConfig(
        image_size=config.get("image_size", round(patches**0.5) * patch_size),
        patch_size=patch_size,
        channels=channels,
        dim=dim,
        depth=1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("layers.")),
        heads=heads,
        mlp_dim=shapes["layers.0.mlp.fc1.weight"][0],
        activation=config.get("hidden_act", activation),
        norm_eps=config.get("layer_norm_eps", 1e-5),
        projection_dim=shapes["projection.weight"][0],
    )
