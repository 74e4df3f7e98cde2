"""The parts of a diffusers Stable Diffusion folder: UNet and autoencoder."""

from collections.abc import Mapping
from typing import Any

from eyesel.errors import CheckpointError
from eyesel.models.autoencoder import AutoencoderConfig
from eyesel.models.unet import UNetConfig
from eyesel.weights.rename import RenameTable

UNET = RenameTable(
    {
        "**.to_out.0.{}": "**.to_out.{}",
        "**.ff.net.0.proj.{}": "**.ff.proj_in.proj.{}",
        "**.ff.net.2.{}": "**.ff.proj_out.{}",
        "**": "**",
    }
)

AUTOENCODER = RenameTable(
    {
        "**.mid_block.attentions.0.group_norm.{}": "**.mid_block.attentions.0.group_norm.{}",
        "**.mid_block.attentions.0.to_out.0.{}": "**.mid_block.attentions.0.attention.to_out.{}",
        "**.mid_block.attentions.0.to_{}.{}": "**.mid_block.attentions.0.attention.to_{}.{}",
        # how diffusers spelled them before 0.18; most checkpoints of that time are still around
        "**.mid_block.attentions.0.query.{}": "**.mid_block.attentions.0.attention.to_q.{}",
        "**.mid_block.attentions.0.key.{}": "**.mid_block.attentions.0.attention.to_k.{}",
        "**.mid_block.attentions.0.value.{}": "**.mid_block.attentions.0.attention.to_v.{}",
        "**.mid_block.attentions.0.proj_attn.{}": "**.mid_block.attentions.0.attention.to_out.{}",
        "**": "**",
    }
)

# Settings of diffusers' UNet2DConditionModel that change the network, with the only value that eyesel builds.
_UNET_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type": (None, "text_time"),
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "reverse_transformer_layers_per_block": None,
    "time_cond_proj_dim": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
}
_DOWN = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
_UP = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}

_AUTOENCODER_FIXED: dict[str, Any] = {"act_fn": "silu", "latents_mean": None, "latents_std": None}


def _check_fixed(part: str, config: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    for key, known in fixed.items():
        allowed = known if isinstance(known, tuple) else (known,)
        if key in config and config[key] not in allowed:
            raise CheckpointError(f"This {part} has {key} {config[key]!r}; eyesel builds only {known!r}.")


def _per_level(value: Any, levels: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * levels


def _list(config: Mapping[str, Any], key: str, default: tuple[Any, ...]) -> tuple[Any, ...]:
    value = config.get(key, default)
    if not isinstance(value, list | tuple):
        raise CheckpointError(f"{key} is {value!r}; it must be a list with one entry for each level.")
    return tuple(value)


def _same_in_all(config: Mapping[str, Any], key: str, default: Any) -> Any:
    value = config.get(key, default)
    if isinstance(value, list | tuple):
        if not value or any(each != value[0] for each in value):
            raise CheckpointError(f"{key} is {value!r}; eyesel builds UNets with the same number at every level.")
        return value[0]
    return value


def _side(sample_size: Any) -> Any:
    """diffusers takes a height and a width as well; the larger is the side of what eyesel paints by default."""
    pair = isinstance(sample_size, list | tuple) and len(sample_size) == 2
    return max(sample_size) if pair and all(type(side) is int for side in sample_size) else sample_size


def unet_config(config: Mapping[str, Any]) -> UNetConfig:
    """diffusers' unet/config.json."""
    _check_fixed("UNet", config, _UNET_FIXED)
    channels = _list(config, "block_out_channels", (320, 640, 1280, 1280))
    levels = len(channels)
    down = _list(config, "down_block_types", ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",))
    up = _list(config, "up_block_types", ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1))
    for kind in (*down, *up):
        if kind not in (*_DOWN, *_UP):
            raise CheckpointError(f"This UNet has blocks of type {kind!r}; eyesel builds {', '.join([*_DOWN, *_UP])}.")
    attends = [_DOWN.get(kind) for kind in down]
    if attends != [_UP.get(kind) for kind in reversed(up)] or len(attends) != levels:
        raise CheckpointError(f"This UNet's levels do not mirror each other: down {list(down)}, up {list(up)}.")
    depth = _per_level(config.get("transformer_layers_per_block", 1), levels)
    if len(depth) != levels or any(not isinstance(d, int) for d in depth):
        raise CheckpointError(
            f"transformer_layers_per_block is {list(depth)!r}; it must be one whole number, or one for each level."
        )
    # `attention_head_dim` has always held the number of heads (huggingface/diffusers issue 2011)
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    sample_size = config.get("sample_size")
    return UNetConfig(
        in_channels=config.get("in_channels", 4),
        out_channels=config.get("out_channels", 4),
        channels=channels,
        layers_per_block=_same_in_all(config, "layers_per_block", 2),
        transformer_depth=tuple(d if attend else 0 for d, attend in zip(depth, attends, strict=True)),
        mid_transformer_depth=depth[-1],
        heads=_per_level(heads, levels),
        context_dim=_same_in_all(config, "cross_attention_dim", 1280),
        linear_projection=config.get("use_linear_projection", False),
        norm_groups=config.get("norm_num_groups", 32),
        norm_eps=config.get("norm_eps", 1e-5),
        size_dim=config.get("addition_time_embed_dim") if config.get("addition_embed_type") else None,
        added_dim=config.get("projection_class_embeddings_input_dim") if config.get("addition_embed_type") else None,
        sample_size=64 if sample_size is None else _side(sample_size),
    )


def autoencoder_config(config: Mapping[str, Any]) -> AutoencoderConfig:
    """diffusers' vae/config.json."""
    _check_fixed("autoencoder", config, _AUTOENCODER_FIXED)
    for kind in (*_list(config, "down_block_types", ()), *_list(config, "up_block_types", ())):
        if kind not in ("DownEncoderBlock2D", "UpDecoderBlock2D"):
            raise CheckpointError(f"This autoencoder has blocks of type {kind!r}, which eyesel does not build.")
    return AutoencoderConfig(
        image_channels=config.get("in_channels", 3),
        latent_channels=config.get("latent_channels", 4),
        channels=_list(config, "block_out_channels", (64,)),
        layers_per_block=config.get("layers_per_block", 1),
        norm_groups=config.get("norm_num_groups", 32),
        mid_attention=config.get("mid_block_add_attention", True),
        quant_conv=config.get("use_quant_conv", True),
        post_quant_conv=config.get("use_post_quant_conv", True),
        scaling_factor=config.get("scaling_factor", 0.18215),
        shift_factor=0.0 if config.get("shift_factor") is None else config["shift_factor"],
    )


def unet_config_json(config: UNetConfig) -> dict[str, Any]:
    """The way back: unet/config.json."""
    depth = config.transformer_depth
    if depth[-1] not in (0, config.mid_transformer_depth):
        raise CheckpointError(
            f"This UNet has {depth[-1]} transformer blocks at its lowest level and {config.mid_transformer_depth} in "
            "the middle; diffusers builds one number."
        )
    down, up = {attends: kind for kind, attends in _DOWN.items()}, {attends: kind for kind, attends in _UP.items()}
    depths = [*(d or 1 for d in depth[:-1]), config.mid_transformer_depth]
    described: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.channels),
        "down_block_types": [down[bool(d)] for d in depth],
        "up_block_types": [up[bool(d)] for d in reversed(depth)],
        "layers_per_block": config.layers_per_block,
        "transformer_layers_per_block": depths if len(set(depths)) > 1 else depths[0],
        "cross_attention_dim": config.context_dim,
        "attention_head_dim": list(config.heads) if len(set(config.heads)) > 1 else config.heads[0],
        "use_linear_projection": config.linear_projection,
        "norm_num_groups": config.norm_groups,
        "norm_eps": config.norm_eps,
        "sample_size": config.sample_size,
    }
    if config.added_dim:
        described |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": config.size_dim,
            "projection_class_embeddings_input_dim": config.added_dim,
        }
    return described


def autoencoder_config_json(config: AutoencoderConfig, sample_size: int) -> dict[str, Any]:
    """The way back: vae/config.json; `sample_size` is the width of the pictures that it was trained with."""
    levels = len(config.channels)
    described: dict[str, Any] = {
        "_class_name": "AutoencoderKL",
        "in_channels": config.image_channels,
        "out_channels": config.image_channels,
        "latent_channels": config.latent_channels,
        "block_out_channels": list(config.channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": config.layers_per_block,
        "norm_num_groups": config.norm_groups,
        "sample_size": sample_size,
        "scaling_factor": config.scaling_factor,
    }
    unusual = {
        "mid_block_add_attention": (config.mid_attention, True),
        "use_quant_conv": (config.quant_conv, True),
        "use_post_quant_conv": (config.post_quant_conv, True),
        "shift_factor": (config.shift_factor, 0.0),
    }
    return described | {key: value for key, (value, usual) in unusual.items() if value != usual}
