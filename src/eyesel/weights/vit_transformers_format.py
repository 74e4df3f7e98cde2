"""A ViT as transformers has it: the names before and since version 5, and the config.json, of ViT, DeiT and DINOv2."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eyesel.errors import CheckpointError, SettingError
from eyesel.models.vit import ViTConfig
from eyesel.weights.rename import RenameTable, Target
from eyesel.weights.vit_shape import Shapes, fields_of, parts_of, positions_of, square

_HEADS = ("classifier.", "cls_classifier.", "distillation_classifier.")
_AROUND: dict[str, Target] = {
    "embeddings.cls_token": "cls_token",
    "embeddings.distillation_token": "distillation_token",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.mask_token": None,  # only masked-image pretraining uses it
    "embeddings.position_embeddings": "position_embeddings",
    "embeddings.patch_embeddings.projection.{}": "patch_embeddings.{}",
    "layernorm.{}": "norm.{}",
    "pooler.dense.{}": "pooler.{}",
    "classifier.{}": "classifier.{}",
    "cls_classifier.{}": "classifier.{}",
    "distillation_classifier.{}": "distillation_classifier.{}",
}
_CLASSIC_ATTENTION: dict[str, Target] = {
    "encoder.layer.{}.attention.attention.query.{}": "layers.{}.attention.to_q.{}",
    "encoder.layer.{}.attention.attention.key.{}": "layers.{}.attention.to_k.{}",
    "encoder.layer.{}.attention.attention.value.{}": "layers.{}.attention.to_v.{}",
    "encoder.layer.{}.attention.output.dense.{}": "layers.{}.attention.to_out.{}",
}


def _new_attention(layers: str) -> dict[str, Target]:
    return {
        f"{layers}.{{}}.attention.{theirs}_proj.{{}}": f"layers.{{}}.attention.to_{ours}.{{}}"
        for theirs, ours in {"q": "q", "k": "k", "v": "v", "o": "out"}.items()
    }


def _vit_layer(layers: str) -> dict[str, Target]:
    return {
        f"{layers}.{{}}.layernorm_before.{{}}": "layers.{}.norm1.{}",
        f"{layers}.{{}}.layernorm_after.{{}}": "layers.{}.norm2.{}",
        f"{layers}.{{}}.mlp.{{}}.{{}}": "layers.{}.mlp.{}.{}",
    }


_DINO_LAYER: dict[str, Target] = {
    "encoder.layer.{}.norm1.{}": "layers.{}.norm1.{}",
    "encoder.layer.{}.norm2.{}": "layers.{}.norm2.{}",
    "encoder.layer.{}.layer_scale1.lambda1": "layers.{}.scale1.gamma",
    "encoder.layer.{}.layer_scale2.lambda1": "layers.{}.scale2.gamma",
    "encoder.layer.{}.mlp.weights_in.{}": ("layers.{}.mlp.gate.{}", "layers.{}.mlp.up.{}"),
    "encoder.layer.{}.mlp.weights_out.{}": "layers.{}.mlp.down.{}",
    "encoder.layer.{}.mlp.gate_proj.{}": "layers.{}.mlp.gate.{}",
    "encoder.layer.{}.mlp.up_proj.{}": "layers.{}.mlp.up.{}",
    "encoder.layer.{}.mlp.down_proj.{}": "layers.{}.mlp.down.{}",
    "encoder.layer.{}.mlp.{}.{}": "layers.{}.mlp.{}.{}",
}

CLASSIC = RenameTable(
    {
        **_AROUND,
        **_CLASSIC_ATTENTION,
        "encoder.layer.{}.layernorm_before.{}": "layers.{}.norm1.{}",
        "encoder.layer.{}.layernorm_after.{}": "layers.{}.norm2.{}",
        "encoder.layer.{}.intermediate.dense.{}": "layers.{}.mlp.fc1.{}",
        "encoder.layer.{}.output.dense.{}": "layers.{}.mlp.fc2.{}",
    },
    prefix="vit.",
    unprefixed=_HEADS,
)
TRANSFORMERS_5 = RenameTable(
    {**_AROUND, **_new_attention("layers"), **_vit_layer("layers")}, prefix="vit.", unprefixed=_HEADS
)
DINOV2 = RenameTable({**_AROUND, **_CLASSIC_ATTENTION, **_DINO_LAYER}, prefix="dinov2.", unprefixed=_HEADS)

# Every name above, whichever of the architectures it belongs to, and what raw state_dicts of third parties have.
TRANSFORMERS = RenameTable(
    {
        **CLASSIC.rows,
        **TRANSFORMERS_5.rows,
        **DINOV2.rows,
        **_new_attention("encoder.layer"),
        **_new_attention("encoder.layers"),
        **_vit_layer("encoder.layers"),
    }
)

MODEL_TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers")


def config_of(config: Mapping[str, Any], shapes: Shapes) -> ViTConfig:
    """transformers' config.json; `shapes` are those of our parameter names, which tell what it does not state."""
    kind = config.get("model_type") or "vit"
    dino = str(kind).startswith("dinov2")
    if config.get("pooler_act", "tanh") != "tanh":
        raise CheckpointError(f"pooler_act is {config['pooler_act']!r}; eyesel reads poolers with 'tanh' alone.")
    dim = config.get("hidden_size", 768)
    swiglu = dino and config.get("use_swiglu_ffn", False)
    parts = parts_of(shapes)
    if kind == "dinov2_with_registers":
        parts["registers"] = config.get("num_register_tokens", 4)
    return ViTConfig(
        image_size=_pair(config.get("image_size", 224)),
        patch_size=_pair(config.get("patch_size", 14 if kind == "dinov2" else 16)),
        channels=config.get("num_channels", 3),
        dim=dim,
        depth=config.get("num_hidden_layers", 12),
        heads=config.get("num_attention_heads", 12),
        mlp_dim=_dino_mlp(dim, config.get("mlp_ratio", 4), swiglu) if dino else config.get("intermediate_size", 3072),
        qkv_bias=config.get("qkv_bias", True),
        activation=config.get("hidden_act", "gelu"),
        norm_eps=config.get("layer_norm_eps", 1e-6 if dino else 1e-12),
        prefix_positions=2 if parts["distillation_token"] else 1,
        layer_scale=dino,
        swiglu=swiglu,
        pooling="cls+mean" if dino and parts["classes"] else "cls",
        resampling_antialias=kind == "dinov2_with_registers",
        **parts,
    )


def config_of_tensors(shapes: Shapes) -> ViTConfig:
    """The same where there is no config.json: heads of 64 channels, as all published ones have them but ViT-H."""
    fields = fields_of(shapes)
    prefix = 2 if fields["distillation_token"] else 1
    grid = square(positions_of(shapes) - prefix)
    if grid is None or fields["dim"] % 64:
        raise CheckpointError(
            f"A ViT of width {fields['dim']} with {positions_of(shapes)} positions needs its config.json: its tensors "
            "do not tell the number of heads, or the size of its pictures."
        )
    dino = fields["layer_scale"]
    return ViTConfig(
        image_size=(grid[0] * fields["patch_size"][0], grid[1] * fields["patch_size"][1]),
        heads=16 if fields["dim"] == 1280 else fields["dim"] // 64,
        norm_eps=1e-6 if dino else 1e-12,
        prefix_positions=prefix,
        pooling="cls+mean" if dino and fields["classes"] else "cls",
        resampling_antialias=fields["registers"] > 0,
        **fields,
    )


def written_config(config: ViTConfig) -> tuple[dict[str, Any], RenameTable]:
    """The way back: config.json without labels, and the names that go with it; `SettingError` where transformers
    has no architecture of this shape.
    """
    kind = "vit"
    if config.layer_scale:
        kind = "dinov2_with_registers" if config.registers else "dinov2"
    elif config.distillation_token:
        kind = "deit"
    written: dict[str, Any] = {
        "architectures": [_class_name(kind, config)],
        "model_type": kind,
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "hidden_act": config.activation,
        "layer_norm_eps": config.norm_eps,
        "image_size": _plain(config.image_size),
        "patch_size": _plain(config.patch_size),
        "num_channels": config.channels,
        "qkv_bias": config.qkv_bias,
    }
    if config.layer_scale:
        ratio = round(config.mlp_dim * (1.5 if config.swiglu else 1) / config.dim)  # transformers has whole ones alone
        written |= {"mlp_ratio": ratio, "use_swiglu_ffn": config.swiglu, "layerscale_value": 1.0}
        written |= {"num_register_tokens": config.registers} if config.registers else {"use_mask_token": False}
    else:
        written |= {"intermediate_size": config.mlp_dim, "encoder_stride": config.patch_size[0]}
    _check_equal(config, kind, written)
    table = DINOV2 if config.layer_scale else CLASSIC
    rows = dict(table.rows)
    if config.distillation_head:
        del rows["classifier.{}"]  # its name where there is no other head
    return written, replace(table, rows=rows, prefix=f"{kind}." if config.classes else "")


def _check_equal(config: ViTConfig, kind: str, written: Mapping[str, Any]) -> None:
    if not config.class_token:
        raise SettingError("transformers has no ViT without a class token: save it in timm's format.")
    if config.layer_scale and config.image_size[0] != config.image_size[1]:
        raise SettingError(f"transformers has no DINOv2 for pictures of {config.image_size}: save it in timm's format.")
    shapes: dict[str, tuple[int, ...]] = {"classifier.weight": (config.classes,)} if config.classes else {}
    for name, present in {
        "cls_token": config.class_token,
        "distillation_token": config.distillation_token,
        "distillation_classifier.weight": config.distillation_head,
        "pooler.weight": config.pooler,
    }.items():
        if present:
            shapes[name] = (1,)
    read = config_of(written, shapes)
    fields = [name for name in vars(config) if not name.startswith("resampling")]
    if differing := [
        f"{name} {getattr(config, name)}" for name in fields if getattr(read, name) != getattr(config, name)
    ]:
        raise SettingError(
            f"transformers has no ViT with {', '.join(differing)} (the nearest is {kind!r}): save it in timm's format."
        )


def _class_name(kind: str, config: ViTConfig) -> str:
    name = {"vit": "ViT", "deit": "DeiT", "dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters"}[kind]
    if config.distillation_head:
        return f"{name}ForImageClassificationWithTeacher"
    return f"{name}ForImageClassification" if config.classes else f"{name}Model"


def _dino_mlp(dim: Any, ratio: Any, swiglu: Any) -> int:
    hidden = int(dim * ratio)
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if swiglu else hidden


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value, value)


def _plain(pair: tuple[int, int]) -> int | list[int]:
    return pair[0] if pair[0] == pair[1] else list(pair)
