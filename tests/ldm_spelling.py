"""The names of ldm and sgm, from those of diffusers and transformers: written from the documented numbering, apart from
eyesel's own tables, so that each can prove the other.
"""

import re

import torch
from safetensors.torch import load_file

LEAVES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
WHOLE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(name, layers, attends):
    """diffusers -> ldm for a UNet of `layers` a level; `attends` by level on the way up."""
    stem, leaf = name.rsplit(".", 1)
    if stem in WHOLE:
        return f"{WHOLE[stem]}.{leaf}"
    side, rest = name.split("_block", 1)
    if side == "mid":
        _, kind, index, rest = rest.split(".", 3)
        block = "middle_block." + ({"0": "0", "1": "2"}[index] if kind == "resnets" else "1")
    else:
        _, level, kind, index, rest = rest.split(".", 4)
        level, index = int(level), int(index)
        if side == "down":
            number = 1 + level * (layers + 1) + (layers if kind == "downsamplers" else index)
            if kind == "downsamplers":
                return f"input_blocks.{number}.0.op.{leaf}"
            block = f"input_blocks.{number}.{0 if kind == 'resnets' else 1}"
        else:
            if kind == "upsamplers":
                return f"output_blocks.{level * (layers + 1) + layers}.{2 if attends[level] else 1}.conv.{leaf}"
            block = f"output_blocks.{level * (layers + 1) + index}.{0 if kind == 'resnets' else 1}"
    if kind == "resnets":
        part, leaf = rest.rsplit(".", 1)
        rest = f"{LEAVES[part]}.{leaf}"
    return f"{block}.{rest}"


def unet(state, config):
    attends = ["Cross" in kind for kind in config["up_block_types"]]
    return {unet_name(name, config["layers_per_block"], attends): tensor for name, tensor in state.items()}


def autoencoder(state, levels):
    result = {}
    for name, tensor in state.items():
        name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"encoder\.down_blocks\.(\d)\.resnets", r"encoder.down.\1.block", name)
        name = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
        if ".attentions.0." in name:
            for theirs, ldm in ATTENTION.items():
                name = name.replace(f"mid_block.attentions.0.{theirs}.", f"mid.attn_1.{ldm}.")
            if tensor.dim() == 2:
                tensor = tensor[:, :, None, None]
        result[name] = tensor
    return result


def open_clip(state):
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    result = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    if "text_projection.weight" in state:
        result["text_projection"] = state["text_projection.weight"].T
    for layer in range(3):
        theirs, ldm = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for leaf in ("weight", "bias"):
            result[f"{ldm}.attn.in_proj_{leaf}"] = torch.cat(
                [state[f"{theirs}.self_attn.{x}_proj.{leaf}"] for x in ("q", "k", "v")]
            )
            for a, b in {
                "self_attn.out_proj": "attn.out_proj",
                "layer_norm1": "ln_1",
                "layer_norm2": "ln_2",
                "mlp.fc1": "mlp.c_fc",
                "mlp.fc2": "mlp.c_proj",
            }.items():
                result[f"{ldm}.{b}.{leaf}"] = state[f"{theirs}.{a}.{leaf}"]
    return result


def clip_l(state):
    return {"text_model." + name.removeprefix("text_model."): tensor for name, tensor in state.items()}


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def whole(folder, family, unet_config):
    """The tensors of a single file, from a diffusers folder of a tiny painter."""

    def part(name, file="diffusion_pytorch_model.safetensors"):
        return load_file(folder / name / file)

    state = prefixed("model.diffusion_model.", unet(part("unet"), unet_config))
    state |= prefixed("first_stage_model.", autoencoder(part("vae"), 4))
    text, text_2 = ("text_encoder", "model.safetensors"), ("text_encoder_2", "model.safetensors")
    if family == "sd1":
        state |= prefixed("cond_stage_model.transformer.", clip_l(part(*text)))
    elif family == "sd2":
        state |= prefixed("cond_stage_model.model.", open_clip(part(*text)))
    elif family == "sdxl":
        state |= prefixed("conditioner.embedders.0.transformer.", clip_l(part(*text)))
        state |= prefixed("conditioner.embedders.1.model.", open_clip(part(*text_2)))
    else:
        state |= prefixed("conditioner.embedders.0.model.", open_clip(part(*text_2)))
    return {name: tensor.contiguous() for name, tensor in state.items()}
