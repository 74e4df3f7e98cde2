"""transformers' CLIP text encoders, with the `text_model.` prefix (before version 5) or without."""

from collections.abc import Mapping
from typing import Any

from eyesel.models.clip_text import ClipTextConfig
from eyesel.weights.rename import RenameTable

CLIP_TEXT = RenameTable(
    {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "position_embedding.weight",
        "embeddings.position_ids": None,  # 0, 1, 2, ...: a buffer of old versions
        "encoder.layers.{}.self_attn.q_proj.{}": "layers.{}.attention.to_q.{}",
        "encoder.layers.{}.self_attn.k_proj.{}": "layers.{}.attention.to_k.{}",
        "encoder.layers.{}.self_attn.v_proj.{}": "layers.{}.attention.to_v.{}",
        "encoder.layers.{}.self_attn.out_proj.{}": "layers.{}.attention.to_out.{}",
        "encoder.layers.{}.layer_norm1.{}": "layers.{}.norm1.{}",
        "encoder.layers.{}.layer_norm2.{}": "layers.{}.norm2.{}",
        "encoder.layers.{}.mlp.{}.{}": "layers.{}.mlp.{}.{}",
        "final_layer_norm.{}": "final_layer_norm.{}",
        "text_projection.weight": "text_projection.weight",
    },
    prefix="text_model.",
    unprefixed=("text_projection.",),
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
