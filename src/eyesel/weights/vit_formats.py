"""The spellings of a ViT checkpoint: transformers before and since version 5, and timm."""

from collections.abc import Mapping
from typing import Any

from eyesel.errors import CheckpointError
from eyesel.models.vit import ViTConfig
from eyesel.weights.rename import RenameTable

_SHARED = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "position_embeddings",
    "embeddings.patch_embeddings.projection.{}": "patch_embeddings.{}",
    "embeddings.mask_token": None,  # only masked-image pretraining uses it
    "layernorm.{}": "norm.{}",
    "pooler.dense.{}": "pooler.{}",
    "classifier.{}": "classifier.{}",
}

CLASSIC = RenameTable(
    {
        **_SHARED,
        "encoder.layer.{}.attention.attention.query.{}": "layers.{}.attention.to_q.{}",
        "encoder.layer.{}.attention.attention.key.{}": "layers.{}.attention.to_k.{}",
        "encoder.layer.{}.attention.attention.value.{}": "layers.{}.attention.to_v.{}",
        "encoder.layer.{}.attention.output.dense.{}": "layers.{}.attention.to_out.{}",
        "encoder.layer.{}.layernorm_before.{}": "layers.{}.norm1.{}",
        "encoder.layer.{}.layernorm_after.{}": "layers.{}.norm2.{}",
        "encoder.layer.{}.intermediate.dense.{}": "layers.{}.mlp.fc1.{}",
        "encoder.layer.{}.output.dense.{}": "layers.{}.mlp.fc2.{}",
    },
    prefix="vit.",
    unprefixed=("classifier.",),
)

TRANSFORMERS_5 = RenameTable(
    {
        **_SHARED,
        "layers.{}.attention.q_proj.{}": "layers.{}.attention.to_q.{}",
        "layers.{}.attention.k_proj.{}": "layers.{}.attention.to_k.{}",
        "layers.{}.attention.v_proj.{}": "layers.{}.attention.to_v.{}",
        "layers.{}.attention.o_proj.{}": "layers.{}.attention.to_out.{}",
        "layers.{}.layernorm_before.{}": "layers.{}.norm1.{}",
        "layers.{}.layernorm_after.{}": "layers.{}.norm2.{}",
        "layers.{}.mlp.{}.{}": "layers.{}.mlp.{}.{}",
    },
    prefix="vit.",
    unprefixed=("classifier.",),
)

TIMM = RenameTable(
    {
        "cls_token": "cls_token",
        "pos_embed": "position_embeddings",
        "patch_embed.proj.{}": "patch_embeddings.{}",
        "blocks.{}.attn.qkv.{}": (
            "layers.{}.attention.to_q.{}",
            "layers.{}.attention.to_k.{}",
            "layers.{}.attention.to_v.{}",
        ),
        "blocks.{}.attn.proj.{}": "layers.{}.attention.to_out.{}",
        "blocks.{}.norm1.{}": "layers.{}.norm1.{}",
        "blocks.{}.norm2.{}": "layers.{}.norm2.{}",
        "blocks.{}.mlp.{}.{}": "layers.{}.mlp.{}.{}",
        "norm.{}": "norm.{}",
        "pre_logits.fc.{}": "pooler.{}",
        "head.{}": "classifier.{}",
    }
)

SPELLINGS = {"transformers": CLASSIC, "transformers-5": TRANSFORMERS_5, "timm": TIMM}
# A name that only this spelling has.
_SIGNATURES = {
    "encoder.layer.0.attention.attention.query.weight": CLASSIC,
    "layers.0.attention.q_proj.weight": TRANSFORMERS_5,
    "blocks.0.attn.qkv.weight": TIMM,
}


def spelling(names: set[str]) -> RenameTable | None:
    """The table that reads a ViT with these tensor names; None if they are not a ViT's."""
    for signature, table in _SIGNATURES.items():
        if signature in names or table.prefix + signature in names:
            return table
    return None


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value, value)


def from_transformers_config(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> ViTConfig:
    """transformers' config.json; `shapes` are those of our parameter names, which tell whether there is a pooler and
    a head.
    """
    return ViTConfig(
        image_size=_pair(config.get("image_size", 224)),
        patch_size=_pair(config.get("patch_size", 16)),
        channels=config.get("num_channels", 3),
        dim=config.get("hidden_size", 768),
        depth=config.get("num_hidden_layers", 12),
        heads=config.get("num_attention_heads", 12),
        mlp_dim=config.get("intermediate_size", 3072),
        qkv_bias=config.get("qkv_bias", True),
        activation=config.get("hidden_act", "gelu"),
        norm_eps=config.get("layer_norm_eps", 1e-12),
        pooler="pooler.weight" in shapes,
        classes=shapes.get("classifier.weight", (0,))[0],
    )


# timm keeps the number of heads in its code, too; these are its tiny, small, base, large, huge, giant and gigantic.
_TIMM_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}


def _timm_heads(config: Mapping[str, Any], dim: int) -> int:
    stated = config.get("model_args")
    heads = stated.get("num_heads") if isinstance(stated, Mapping) else None
    if heads is None and str(config.get("architecture")).startswith("test_vit"):
        heads = dim // 32
    heads = _TIMM_HEADS.get(dim) if heads is None else heads
    if heads is None:
        raise CheckpointError(
            f"A timm ViT of width {dim} does not say how many heads it has; give it a config.json of transformers, "
            "or num_heads in model_args."
        )
    return heads


def from_timm_config(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> ViTConfig:
    """timm keeps the network's shape in its code, not in config.json: it is read off the tensors."""
    dim, channels, *patch_size = shapes["patch_embeddings.weight"]
    positions = shapes["position_embeddings"][1] - 1
    side = round(positions**0.5)
    if side * side != positions:
        raise CheckpointError(f"A timm ViT with {positions} patch positions is not square; eyesel reads square ones.")
    depth = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("layers."))
    return ViTConfig(
        image_size=(side * patch_size[0], side * patch_size[1]),
        patch_size=(patch_size[0], patch_size[1]),
        channels=channels,
        dim=dim,
        depth=depth,
        heads=_timm_heads(config, dim),
        mlp_dim=shapes["layers.0.mlp.fc1.weight"][0],
        qkv_bias="layers.0.attention.to_q.bias" in shapes,
        norm_eps=1e-6,
        pooler="pooler.weight" in shapes,
        classes=shapes.get("classifier.weight", (0,))[0],
    )
