"""LoRA files for tests, made from the modules of diffusers and transformers under the names of their trainers."""

import copy
from functools import cache

import diffusers
import torch
from torch import nn

import ldm_spelling
from eyesel.weights.clip_format import CLIP_TEXT
from eyesel.weights.diffusers_format import UNET

RANK = 3


@cache
def _opened(folder):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def reference(folder):
    """diffusers' pipeline of a folder, to be changed freely."""
    return copy.deepcopy(_opened(folder))


def draw(generator, *shape):
    return torch.randn(*shape, generator=generator) * 0.2


def layers(model, kinds=(nn.Linear, nn.Conv2d)):
    """The layers of a reference model by name, those of text encoders with the prefix that files have."""
    text = not hasattr(model, "down_blocks")
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            prefixed = not text or name.startswith(("text_model.", "text_projection"))
            yield name if prefixed else f"text_model.{name}", module


def factors(layer, generator, rank=RANK):
    """down and up of a layer, those of a convolution as LoCon has them."""
    out, *rest = layer.weight.shape
    return draw(generator, rank, *rest), draw(generator, out, rank, *(1 for _ in rest[1:]))


def parts(pipeline):
    """The models that a LoRA changes, under the names of their folders."""
    encoders = {"text_encoder": pipeline.text_encoder, "text_encoder_2": getattr(pipeline, "text_encoder_2", None)}
    return {"unet": pipeline.unet, **{name: model for name, model in encoders.items() if model is not None}}


def kohya_prefix(part, count):
    return {"unet": "lora_unet_", "text_encoder": "lora_te1_" if count > 2 else "lora_te_"}.get(part, "lora_te2_")


def sgm_name(pipeline, name):
    config = pipeline.unet.config
    attends = ["Cross" in kind for kind in config["up_block_types"]]
    return ldm_spelling.unet_name(f"{name}.weight", config["layers_per_block"], attends).removesuffix(".weight")


def state_of(painter):
    """The weights of eyesel's painter under the names of the reference, as float32."""
    tables = [UNET, *[CLIP_TEXT] * len(painter.text_encoders)]
    models = [painter.unet, *painter.text_encoders]
    result = {}
    for part, table, model in zip(("unet", "text_encoder", "text_encoder_2"), tables, models, strict=False):
        for name, tensor in table.write(dict(model.named_parameters())).items():
            result[f"{part}.{name.removeprefix('text_model.')}"] = tensor.detach().float().clone()
    return result


def reference_state(pipeline):
    result = {}
    for part, model in parts(pipeline).items():
        for name, tensor in model.named_parameters():
            name = name.replace("base_layer.", "").removeprefix("text_model.")
            if "lora_" not in name:
                result[f"{part}.{name}"] = tensor.detach().float().clone()
    return result


def difference(ours, expected):
    """The largest difference over all weights, which must have the same names."""
    assert ours.keys() == expected.keys()
    return max((ours[name] - tensor).abs().max().item() for name, tensor in expected.items())
