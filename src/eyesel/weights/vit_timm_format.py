"""A ViT as timm has it, and those whose code began as timm's: DeiT, DINO and DINOv2 in the files of their authors.

timm keeps the network's shape in its code, under a name (`architecture`): sizes are read off the tensors, and what
those cannot tell follows from `model_args`, else from the name.
"""

from collections.abc import Mapping
from typing import Any

from eyesel.errors import CheckpointError, SettingError
from eyesel.models.vit import ViTConfig
from eyesel.weights.rename import RenameTable, Target
from eyesel.weights.vit_shape import Shapes, fields_of, positions_of, square

_FUSED = ("layers.{}.attention.to_q.{}", "layers.{}.attention.to_k.{}", "layers.{}.attention.to_v.{}")
_GATED = ("layers.{}.mlp.gate.{}", "layers.{}.mlp.up.{}")

TIMM = RenameTable(
    {
        "cls_token": "cls_token",
        "dist_token": "distillation_token",
        "reg_token": "register_tokens",
        "pos_embed": "position_embeddings",
        "patch_embed.proj.{}": "patch_embeddings.{}",
        "norm_pre.{}": "embedding_norm.{}",
        "blocks.{}.attn.qkv.{}": _FUSED,
        "blocks.{}.attn.proj.{}": "layers.{}.attention.to_out.{}",
        "blocks.{}.ls1.gamma": "layers.{}.scale1.gamma",
        "blocks.{}.ls2.gamma": "layers.{}.scale2.gamma",
        "blocks.{}.norm1.{}": "layers.{}.norm1.{}",
        "blocks.{}.norm2.{}": "layers.{}.norm2.{}",
        "blocks.{}.mlp.w12.{}": _GATED,  # DINOv2
        "blocks.{}.mlp.w3.{}": "layers.{}.mlp.down.{}",
        "blocks.{}.mlp.{}.{}": "layers.{}.mlp.{}.{}",
        "norm.{}": "norm.{}",
        "fc_norm.{}": "pooled_norm.{}",
        "pre_logits.fc.{}": "pooler.{}",
        "head.{}": "classifier.{}",
        "head_dist.{}": "distillation_classifier.{}",
        "register_tokens": "register_tokens",  # DINOv2
        "mask_token": None,  # only DINOv2's pretraining uses it
        "blocks.{}.gamma_1": "layers.{}.scale1.gamma",  # DeiT III
        "blocks.{}.gamma_2": "layers.{}.scale2.gamma",
        "head.mlp.**": None,  # DINO's head, which its pretraining alone uses
        "head.last_layer.**": None,
    }
)
_PACKED: dict[str, Target] = {"blocks.{}.mlp.fc1.{}": _GATED, "blocks.{}.mlp.fc2.{}": "layers.{}.mlp.down.{}"}
TIMM_SWIGLU = RenameTable({**_PACKED, **TIMM.rows})  # timm's own SwiGLU, under the names of its MLP

# timm's activations by our names for them.
_ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh", "gelu": "gelu", "quick_gelu": "quick_gelu", "relu": "relu"}
_ACTIVATIONS["silu"] = _ACTIVATIONS["swish"] = "silu"
_POOLINGS = {"token": "cls", "avg": "mean", "": "cls"}
# Architectures that have the tensors of a ViT and compute something else.
_OTHERS = {"rope": "rotary positions", "_rpn": "norms behind its branches", "sapiens": "rotary positions"}
# Widths that are not split into heads of 64 channels (huge, giant, gigantic, so400m), and one name.
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
_FAMILIES = ("vit_", "deit", "flexivit", "eva_large", "test_vit")
_HEADS_BY_NAME = {"vit_base_patch16_gap": 16, "vit_giantopt": 16}


def is_packed(shapes: Shapes) -> bool:
    """Whether `mlp.fc1` holds a gate beside the hidden values; `shapes` are those of timm's names."""
    first, second = (shapes.get(f"blocks.0.mlp.fc{i}.weight", (0, 0)) for i in (1, 2))
    return len(first) == len(second) == 2 and first[0] == 2 * second[1] > 0


def config_of(config: Mapping[str, Any], shapes: Shapes) -> ViTConfig:
    """timm's config.json and the shapes under our names."""
    architecture, args = str(config.get("architecture", "")), _mapping(config.get("model_args"))
    described = _mapping(config.get("pretrained_cfg", config))
    for part, what in _OTHERS.items():
        if part in architecture:
            raise CheckpointError(f"{architecture} has {what}, which eyesel does not compute; use another ViT.")
    if args.get("pool_include_prefix"):
        raise CheckpointError("pool_include_prefix is true; eyesel pools the patches alone.")
    fields = fields_of(shapes)
    pooled = args.get("global_pool", config.get("global_pool", described.get("global_pool")))
    default = "token" if fields["class_token"] else "avg"
    pooled = default if pooled is None or (pooled == "" and default == "avg") else pooled
    if pooled not in _POOLINGS:
        raise CheckpointError(f"global_pool is {pooled!r}; eyesel pools by {', '.join(filter(None, _POOLINGS))}.")
    image_size = args.get("img_size", described.get("input_size", (0, 0))[-2:])
    prefix, grid = _positions(fields, shapes, _pair(image_size))
    return _config(
        fields,
        prefix,
        grid,
        heads=args.get("num_heads") or _heads(architecture, fields["dim"]),
        activation=_activation(architecture, args),
        norm_eps=norm_eps(fields["embedding_norm"]),
        pooling=_POOLINGS[pooled],
        resampling_antialias=True,
    )


def config_of_tensors(shapes: Shapes, dinov2: bool) -> ViTConfig:
    """The same where there is no config.json, as in the files of DeiT, DINO and DINOv2 (`dinov2`: it has that one's
    own names).
    """
    fields = fields_of(shapes)
    prefix, grid = _positions(fields, shapes, (0, 0))
    metas = dinov2 or not fields["classes"]  # DINO and DINOv2 come without a head
    return _config(
        fields,
        prefix,
        grid,
        heads=_heads("vit_", fields["dim"]),
        activation="gelu",
        norm_eps=norm_eps(fields["embedding_norm"]),
        pooling="cls" if fields["class_token"] else "mean",
        resampling_antialias=not metas or fields["registers"] > 0,
        resampling_offset=0.1 if metas and not fields["registers"] else 0.0,
    )


def _config(fields: Mapping[str, Any], prefix: int, grid: tuple[int, int], pooling: str, **others: Any) -> ViTConfig:
    through_pooler = pooling == "cls" and fields["pooler"] and fields["classes"]
    return ViTConfig(
        image_size=(grid[0] * fields["patch_size"][0], grid[1] * fields["patch_size"][1]),
        prefix_positions=prefix,
        pooling="pooler" if through_pooler else pooling,
        **fields,
        **others,
    )


def _positions(fields: Mapping[str, Any], shapes: Shapes, image_size: Any) -> tuple[int, tuple[int, int]]:
    """How many of the tokens before the patches have a position, and the grid of those that remain: that of the
    picture size if it fits, else a square.
    """
    tokens, count = fields["class_token"] + fields["distillation_token"], positions_of(shapes)
    prefixes = dict.fromkeys((tokens + fields["registers"], tokens, 0))
    rows, columns = (size // patch for size, patch in zip(image_size, fields["patch_size"], strict=True))
    for prefix in prefixes:
        if count - prefix == rows * columns > 0:
            return prefix, (rows, columns)
    for prefix in prefixes:
        if grid := square(count - prefix):
            return prefix, grid
    raise CheckpointError(
        f"A timm ViT with {count} positions is neither for {image_size} pixels nor square: state its img_size in "
        "model_args."
    )


def norm_eps(embedding_norm: bool) -> float:
    """What timm computes with: its CLIP towers have another one."""
    return 1e-5 if embedding_norm else 1e-6


def _heads(architecture: str, dim: int) -> int:
    for start, heads in _HEADS_BY_NAME.items():
        if architecture.startswith(start):
            return heads
    channels = 32 if architecture.startswith("test_vit") else 64
    if not architecture.startswith(_FAMILIES) or (dim not in _HEADS and dim % channels):
        raise CheckpointError(
            f"A timm ViT of width {dim} does not say how many heads it has; give it a config.json of transformers, "
            "or num_heads in model_args."
        )
    return _HEADS.get(dim, dim // channels)


def _activation(architecture: str, args: Mapping[str, Any]) -> str:
    stated = args.get("act_layer")
    if stated is None:
        return (
            "quick_gelu" if "quickgelu" in architecture else "gelu_pytorch_tanh" if "siglip" in architecture else "gelu"
        )
    if stated not in _ACTIVATIONS:
        raise CheckpointError(f"act_layer is {stated!r}; eyesel computes {', '.join(_ACTIVATIONS)}.")
    return _ACTIVATIONS[stated]


def written_config(config: ViTConfig) -> tuple[dict[str, Any], RenameTable]:
    """The way back: config.json without labels and preprocessing, and the names that go with it; `SettingError`
    where timm has no such network.
    """
    architecture = "vit_base_patch16_224"
    if config.distillation_token:
        architecture = "deit_base_distilled_patch16_224"
    elif config.swiglu:
        architecture = "vit_giant_patch14_dinov2"
    elif config.embedding_norm:
        architecture = "vit_base_patch16_clip_224"
    hidden = config.mlp_dim * (2 if config.swiglu else 1)
    args: dict[str, Any] = {
        "img_size": list(config.image_size),
        "patch_size": list(config.patch_size),
        "in_chans": config.channels,
        "embed_dim": config.dim,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": _ratio(hidden, config.dim),
        "qkv_bias": config.qkv_bias,
        "class_token": config.class_token,
        "reg_tokens": config.registers,
        "no_embed_class": config.prefix_positions == 0,
        "init_values": 1e-5 if config.layer_scale else None,
        "global_pool": "avg" if config.pooling == "mean" else "token",
        "fc_norm": config.pooled_norm,
    }
    if not config.swiglu:
        args["act_layer"] = next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == _activation_name(config))
    if config.pooling not in ("cls", "mean") or config.prefix_positions not in (0, config.prefix_tokens):
        raise SettingError(
            f"timm has no ViT with pooling {config.pooling!r} and {config.prefix_positions} positions for "
            f"{config.prefix_tokens} tokens before the patches: save it in transformers' format."
        )
    if config.distillation_token and config.classes and not config.distillation_head:
        raise SettingError("timm has no ViT with a distillation token and one head: save it in transformers' format.")
    if config.pooler and config.classes:
        raise SettingError("timm has no ViT with a pooler any more: save it in transformers' format.")
    written = {
        "architecture": architecture,
        "num_classes": config.classes,
        "num_features": config.dim,
        "global_pool": args["global_pool"],
        "model_args": args,
    }
    return written, TIMM_SWIGLU if config.swiglu else TIMM


def _activation_name(config: ViTConfig) -> str:
    return "gelu_pytorch_tanh" if config.activation == "gelu_new" else config.activation


def _ratio(hidden: int, dim: int) -> float:
    """A number by which timm's int(dim · ratio) is exactly `hidden`."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value, value)
