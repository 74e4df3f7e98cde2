"""IP-Adapters of random weights, in the files of their authors, and tiny image encoders as transformers saves them."""

import torch
import transformers
from safetensors.torch import save_file

from tiny_models import randomise

IMAGE_DIM, PROJECTED, HIDDEN, INNER, TOKENS = 24, 20, 32, 64, 5  # resamplers have heads of 64


def write_image_encoder(folder, dim=IMAGE_DIM, act="gelu", **change):
    config = transformers.CLIPVisionConfig(
        **{
            "hidden_size": dim,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "image_size": 32,
            "patch_size": 8,
            "hidden_act": act,
            "projection_dim": PROJECTED,
            **change,
        }
    )
    model = randomise(transformers.CLIPVisionModelWithProjection(config), 5)
    model.save_pretrained(folder)
    return model


def projection(kind, context_dim, draw):
    if kind == "plain":
        return {
            "proj.weight": draw(4 * context_dim, PROJECTED),
            "proj.bias": draw(4 * context_dim),
            "norm.weight": 1 + draw(context_dim),
            "norm.bias": draw(context_dim),
        }
    if kind == "full face":
        return {
            "proj.0.weight": draw(IMAGE_DIM, IMAGE_DIM),
            "proj.0.bias": draw(IMAGE_DIM),
            "proj.2.weight": draw(context_dim, IMAGE_DIM),
            "proj.2.bias": draw(context_dim),
            "proj.3.weight": 1 + draw(context_dim),
            "proj.3.bias": draw(context_dim),
        }
    tensors = {
        "latents": draw(1, TOKENS, HIDDEN),
        "proj_in.weight": draw(HIDDEN, IMAGE_DIM),
        "proj_in.bias": draw(HIDDEN),
        "proj_out.weight": draw(context_dim, HIDDEN),
        "proj_out.bias": draw(context_dim),
        "norm_out.weight": 1 + draw(context_dim),
        "norm_out.bias": draw(context_dim),
    }
    for i in range(4):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            tensors[f"layers.{i}.{norm}.weight"] = 1 + draw(HIDDEN)
            tensors[f"layers.{i}.{norm}.bias"] = draw(HIDDEN)
        tensors[f"layers.{i}.0.to_q.weight"] = draw(INNER, HIDDEN)
        tensors[f"layers.{i}.0.to_kv.weight"] = draw(2 * INNER, HIDDEN)
        tensors[f"layers.{i}.0.to_out.weight"] = draw(HIDDEN, INNER)
        tensors[f"layers.{i}.1.1.weight"] = draw(4 * HIDDEN, HIDDEN)
        tensors[f"layers.{i}.1.3.weight"] = draw(HIDDEN, 4 * HIDDEN)
    return tensors


def tables(unet, kind, seed=0):
    """The two tables of a `.bin` file, for diffusers' UNet: layers go by their number among all attention layers."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return 0.4 * torch.randn(*shape, generator=generator)

    layers = {}
    for i, name in enumerate(unet.attn_processors):
        if "attn2" in name:
            dim, context_dim = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
            layers |= {f"{i}.to_{leaf}_ip.weight": draw(dim, context_dim) for leaf in "kv"}
    return {"image_proj": projection(kind, context_dim, draw), "ip_adapter": layers}


def save(parts, file):
    if file.suffix == ".bin":
        torch.save(parts, file)
    else:
        flat = {
            f"{part}.{name}": tensor.contiguous() for part, table in parts.items() for name, tensor in table.items()
        }
        save_file(flat, file)
    return file
