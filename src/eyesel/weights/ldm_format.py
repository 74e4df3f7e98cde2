"""Single files of CompVis' ldm and Stability's sgm: UNet, autoencoder and OpenCLIP text encoders.

One tensor table holds every part behind a prefix. The UNet's blocks are numbered in the order in which they run, where
diffusers (and eyesel) counts levels and layers (`openaimodel.py` of github.com/CompVis/latent-diffusion); so its table
is generated for a network of a given shape, and the shape is read off the tensors.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import count, takewhile
from typing import TypeVar

from eyesel.errors import CheckpointError
from eyesel.models.autoencoder import AutoencoderConfig
from eyesel.models.clip_text import ClipTextConfig
from eyesel.models.unet import UNetConfig
from eyesel.weights import diffusers_format
from eyesel.weights.clip_format import CLIP_TEXT
from eyesel.weights.rename import RenameTable, Target

UNET_PREFIX = "model.diffusion_model."
AUTOENCODER_PREFIXES = ("first_stage_model.", "vae.")  # the first is written

Shapes = Mapping[str, tuple[int, ...]]

# --- UNet

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def _resnet(theirs: str, ours: str) -> dict[str, Target]:
    return {f"{theirs}.{leaf}.{{}}": f"{ours}.{name}.{{}}" for leaf, name in _RESNET.items()}


def _transformer(theirs: str, ours: str) -> dict[str, Target]:
    """Inside a spatial transformer ldm's names are diffusers'."""
    return {f"{theirs}.{leaf}": f"{ours}.{name}" for leaf, name in diffusers_format.UNET.rows.items()}


def unet_table(config: UNetConfig) -> RenameTable:
    rows: dict[str, Target] = {
        "time_embed.0.{}": "time_embedding.linear_1.{}",
        "time_embed.2.{}": "time_embedding.linear_2.{}",
        "label_emb.0.0.{}": "add_embedding.linear_1.{}",
        "label_emb.0.2.{}": "add_embedding.linear_2.{}",
        "input_blocks.0.0.{}": "conv_in.{}",
        "out.0.{}": "conv_norm_out.{}",
        "out.2.{}": "conv_out.{}",
    }
    last = len(config.channels) - 1
    number = count(1)
    for level, depth in enumerate(config.transformer_depth):
        ours = f"down_blocks.{level}"
        for layer in range(config.layers_per_block):
            theirs = f"input_blocks.{next(number)}"
            rows |= _resnet(f"{theirs}.0", f"{ours}.resnets.{layer}")
            if depth:
                rows |= _transformer(f"{theirs}.1", f"{ours}.attentions.{layer}")
        if level < last:
            rows[f"input_blocks.{next(number)}.0.op.{{}}"] = f"{ours}.downsamplers.0.conv.{{}}"

    rows |= _resnet("middle_block.0", "mid_block.resnets.0")
    if config.mid_transformer_depth:
        rows |= _transformer("middle_block.1", "mid_block.attentions.0")
    rows |= _resnet(f"middle_block.{2 if config.mid_transformer_depth else 1}", "mid_block.resnets.1")

    number = count()
    for level, depth in enumerate(reversed(config.transformer_depth)):
        ours = f"up_blocks.{level}"
        for layer in range(config.layers_per_block + 1):
            theirs = f"output_blocks.{next(number)}"
            rows |= _resnet(f"{theirs}.0", f"{ours}.resnets.{layer}")
            if depth:
                rows |= _transformer(f"{theirs}.1", f"{ours}.attentions.{layer}")
        if level < last:  # the upsampler stands behind the level's last layer
            rows[f"{theirs}.{2 if depth else 1}.conv.{{}}"] = f"{ours}.upsamplers.0.conv.{{}}"
    return RenameTable(rows)


def unet_config(shapes: Shapes, heads: int | None, size_numbers: int, pooled_dim: int, sample_size: int) -> UNetConfig:
    """The network's shape, read off its tensors. `heads` None: they are 64 wide; `size_numbers` is how many of them
    the network is told besides the pooled prompt.
    """
    levels: list[list[int]] = [[]]
    for number in count(1):
        if f"input_blocks.{number}.0.op.weight" in shapes:
            levels.append([])
        elif f"input_blocks.{number}.0.in_layers.2.weight" in shapes:
            levels[-1].append(number)
        else:
            break
    layers = {len(level) for level in levels}
    if len(layers) > 1 or not levels[0]:
        raise CheckpointError(f"This UNet has levels of {sorted(layers)} layers; eyesel builds one number, from 1 up.")

    def depth(block: str) -> int:
        return _length(lambda i: f"{block}.1.transformer_blocks.{i}.norm1.weight" in shapes)

    try:
        channels = tuple(shapes[f"input_blocks.{level[0]}.0.out_layers.3.weight"][0] for level in levels)
        added_dim = shapes.get("label_emb.0.0.weight", (0, None))[1]
        return UNetConfig(
            in_channels=shapes["input_blocks.0.0.weight"][1],
            out_channels=shapes["out.2.weight"][0],
            channels=channels,
            layers_per_block=layers.pop(),
            transformer_depth=tuple(depth(f"input_blocks.{level[0]}") for level in levels),
            mid_transformer_depth=depth("middle_block"),
            heads=tuple(heads or max(width // 64, 1) for width in channels),
            context_dim=shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
            linear_projection=len(shapes["middle_block.1.proj_in.weight"]) == 2,
            size_dim=(added_dim - pooled_dim) // size_numbers if added_dim and size_numbers else None,
            added_dim=added_dim,
            sample_size=sample_size,
        )
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"This UNet is not Stable Diffusion's: it lacks or misshapes {error}.") from error


def _length(has: Callable[[int], bool]) -> int:
    """How many numbers from 0 up, without a gap, have something."""
    return sum(1 for _ in takewhile(has, count()))


# --- autoencoder

_MID = {
    "mid.block_1.nin_shortcut.{}": "mid_block.resnets.0.conv_shortcut.{}",
    "mid.block_1.{}.{}": "mid_block.resnets.0.{}.{}",
    "mid.block_2.nin_shortcut.{}": "mid_block.resnets.1.conv_shortcut.{}",
    "mid.block_2.{}.{}": "mid_block.resnets.1.{}.{}",
    "mid.attn_1.norm.{}": "mid_block.attentions.0.group_norm.{}",
    "mid.attn_1.q.{}": "mid_block.attentions.0.attention.to_q.{}",
    "mid.attn_1.k.{}": "mid_block.attentions.0.attention.to_k.{}",
    "mid.attn_1.v.{}": "mid_block.attentions.0.attention.to_v.{}",
    "mid.attn_1.proj_out.{}": "mid_block.attentions.0.attention.to_out.{}",
}


def autoencoder_table(levels: int) -> RenameTable:
    """ldm numbers the decoder's levels from the highest resolution, diffusers in the order in which they run."""
    rows: dict[str, Target] = {
        "loss.**": None,  # the discriminator of the training
        "model_ema.**": None,
        "**.norm_out.{}": "**.conv_norm_out.{}",
    }
    for level in range(levels):
        for theirs, ours, sampler in (
            (f"encoder.down.{level}", f"encoder.down_blocks.{level}", "down"),
            (f"decoder.up.{level}", f"decoder.up_blocks.{levels - 1 - level}", "up"),
        ):
            rows[f"{theirs}.block.{{}}.nin_shortcut.{{}}"] = f"{ours}.resnets.{{}}.conv_shortcut.{{}}"
            rows[f"{theirs}.block.{{}}.{{}}.{{}}"] = f"{ours}.resnets.{{}}.{{}}.{{}}"
            rows[f"{theirs}.{sampler}sample.conv.{{}}"] = f"{ours}.{sampler}samplers.0.conv.{{}}"
    rows |= {f"**.{theirs}": f"**.{ours}" for theirs, ours in _MID.items()}
    rows |= {f"{name}.{{}}": f"{name}.{{}}" for name in ("encoder.conv_in", "encoder.conv_out", "decoder.conv_in")}
    rows |= {f"{name}.{{}}": f"{name}.{{}}" for name in ("decoder.conv_out", "quant_conv", "post_quant_conv")}
    return RenameTable(
        rows, forms={f"**.mid.attn_1.{name}.weight": "convolution" for name in ("q", "k", "v", "proj_out")}
    )


def autoencoder_levels(shapes: Shapes) -> int:
    return _length(lambda i: f"encoder.down.{i}.block.0.conv1.weight" in shapes)


def autoencoder_config(shapes: Shapes, scaling_factor: float) -> AutoencoderConfig:
    """The network's shape, read off its tensors under our names."""
    levels = _length(lambda i: f"encoder.down_blocks.{i}.resnets.0.conv1.weight" in shapes)
    try:
        return AutoencoderConfig(
            image_channels=shapes["encoder.conv_in.weight"][1],
            latent_channels=shapes["decoder.conv_in.weight"][1],
            channels=tuple(shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels)),
            layers_per_block=_length(lambda i: f"encoder.down_blocks.0.resnets.{i}.conv1.weight" in shapes),
            mid_attention="decoder.mid_block.attentions.0.group_norm.weight" in shapes,
            quant_conv="quant_conv.weight" in shapes,
            post_quant_conv="post_quant_conv.weight" in shapes,
            scaling_factor=scaling_factor,
        )
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"This autoencoder is not Stable Diffusion's: it lacks {error}.") from error


# --- text encoders

# transformers' names; SDXL and SD 1 use neither the projection nor the temperature that some files carry along
CLIP_L = RenameTable(
    {"text_projection.weight": None, "logit_scale": None, **CLIP_TEXT.rows}, CLIP_TEXT.prefix, CLIP_TEXT.unprefixed
)
# github.com/mlfoundations/open_clip, with q, k and v in one matrix
OPEN_CLIP = RenameTable(
    {
        "token_embedding.weight": "token_embedding.weight",
        "positional_embedding": "position_embedding.weight",
        **{
            f"transformer.resblocks.{{}}.attn.in_proj_{leaf}": (
                f"layers.{{}}.attention.to_q.{leaf}",
                f"layers.{{}}.attention.to_k.{leaf}",
                f"layers.{{}}.attention.to_v.{leaf}",
            )
            for leaf in ("weight", "bias")
        },
        "transformer.resblocks.{}.attn.out_proj.{}": "layers.{}.attention.to_out.{}",
        "transformer.resblocks.{}.ln_1.{}": "layers.{}.norm1.{}",
        "transformer.resblocks.{}.ln_2.{}": "layers.{}.norm2.{}",
        "transformer.resblocks.{}.mlp.c_fc.{}": "layers.{}.mlp.fc1.{}",
        "transformer.resblocks.{}.mlp.c_proj.{}": "layers.{}.mlp.fc2.{}",
        "transformer.text_model.embeddings.position_ids": None,  # of files that were converted from transformers
        "ln_final.{}": "final_layer_norm.{}",
        "text_projection": "text_projection.weight",
        "text_projection.weight": "text_projection.weight",  # as ComfyUI has saved it, the way round of transformers
        "logit_scale": None,
        "attn_mask": None,
    },
    forms={"text_projection": "transposed"},
)
# SD 2 takes the features before the last of 24 layers, so diffusers and eyesel do not have that layer.
OPEN_CLIP_SD2 = RenameTable(
    {
        "transformer.resblocks.23.**": None,
        **OPEN_CLIP.rows,
        "text_projection": None,
        "text_projection.weight": None,
    }
)


def clip_config(shapes: Shapes, activation: str) -> ClipTextConfig:
    """The encoder's shape, read off its tensors under our names; the heads of every CLIP text encoder are 64 wide."""
    try:
        vocab_size, dim = shapes["token_embedding.weight"]
        return ClipTextConfig(
            vocab_size=vocab_size,
            max_length=shapes["position_embedding.weight"][0],
            dim=dim,
            depth=_length(lambda i: f"layers.{i}.norm1.weight" in shapes),
            heads=max(dim // 64, 1),
            mlp_dim=shapes["layers.0.mlp.fc1.weight"][0],
            activation=activation,
            projection_dim=shapes.get("text_projection.weight", (None,))[0],
        )
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(f"This text encoder is not CLIP's: it lacks {error}.") from error


# --- the file as a whole

Stored = TypeVar("Stored")

# What training and other programs leave in a file, and painting does not need.
_LEFTOVERS = (
    "model_ema.",
    "betas",
    "alphas_cumprod",
    "sqrt_",
    "log_one_minus_alphas_cumprod",
    "posterior_",
    "lvlb_weights",
    "logvar",
    "scale_factor",
    "global_step",
    "denoiser.sigmas",
    "embedding_manager.",
    "cond_stage_model.logit_scale",
    "conditioner.embedders.0.logit_scale",
    "v_pred",
    "ztsnr",
)


def under(tensors: Mapping[str, Stored], prefix: str) -> dict[str, Stored]:
    """The part of a file behind a prefix, without it."""
    return {name.removeprefix(prefix): stored for name, stored in tensors.items() if name.startswith(prefix)}


def unexplained(names: Iterable[str], prefixes: tuple[str, ...]) -> list[str]:
    """The names that belong to no part and are no known leftover."""
    return [name for name in names if not name.startswith((*prefixes, *_LEFTOVERS))]


def averaged(tensors: Mapping[str, Stored]) -> dict[str, Stored] | None:
    """The exponential moving average of the UNet's weights (`ema.py` of latent-diffusion: names lose their dots), under
    the UNet's names without prefix; None where the file does not hold it in full.
    """
    names = [name for name in tensors if name.startswith(UNET_PREFIX)]
    twins = {name: "model_ema." + name.removeprefix("model.").replace(".", "") for name in names}
    if not names or any(twin not in tensors for twin in twins.values()):
        return None
    return {name.removeprefix(UNET_PREFIX): tensors[twin] for name, twin in twins.items()}
