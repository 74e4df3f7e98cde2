"""Which family a checkpoint belongs to, so that one that eyesel cannot open is refused by its name."""

from collections.abc import Iterable, Mapping
from typing import Any

# A tensor name that gives a single-file checkpoint away; the more specific first.
_SIGNATURES = {
    "double_blocks.0.img_attn.norm.key_norm.scale": "a Flux checkpoint",
    "joint_blocks.0.": "a Stable Diffusion 3 checkpoint",
    "control_model.time_embed.0.weight": "a ControlNet checkpoint",
    "controlnet_cond_embedding.": "a ControlNet checkpoint",
    "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": "a single-file SDXL checkpoint",
    "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias": "a single-file SDXL refiner",
    "cond_stage_model.model.": "a single-file Stable Diffusion 2 checkpoint",
    "model.diffusion_model.": "a single-file Stable Diffusion checkpoint",
    "first_stage_model.": "a single-file autoencoder",
    "lora_unet_": "a LoRA",
    "lora_te": "a LoRA",
    ".lora_A.weight": "a LoRA",
    ".lora_up.weight": "a LoRA",
    "emb_params": "a textual-inversion embedding",
    "transformer_blocks.0.norm1_context.linear.weight": "a Flux or Stable Diffusion 3 transformer",
    "up_blocks.0.resnets.0.time_emb_proj.weight": "a Stable Diffusion UNet alone",
    "decoder.up_blocks.0.resnets.0.norm1.weight": "an autoencoder alone",
    "text_model.encoder.layers.0.self_attn.q_proj.weight": "a CLIP text encoder alone",
    "vision_model.encoder.layers.0.self_attn.q_proj.weight": "a CLIP model",
    "encoder.layer.0.attention.attention.query.weight": "a Vision Transformer",
    "layers.0.attention.q_proj.weight": "a Vision Transformer",
    "blocks.0.attn.qkv.weight": "a Vision Transformer",
    "encoder.layer.0.attention.self.query.weight": "a BERT-like text model",
    "layer4.0.conv1.weight": "a ResNet",
    "self_attn.q_proj.weight": "a language model",
}


def family_of_tensors(names: Iterable[str]) -> str | None:
    """What these tensor names are the weights of, in words ("a Flux checkpoint"); None if unknown."""
    names = list(names)
    for signature, family in _SIGNATURES.items():
        if any(signature in name for name in names):
            return family
    return None


_PIPELINES = {
    "Flux": "a Flux checkpoint",
    "StableDiffusion3": "a Stable Diffusion 3 checkpoint",
    "StableDiffusionUpscale": "a Stable Diffusion upscaler",
    "StableDiffusionLatentUpscale": "a Stable Diffusion upscaler",
    "StableDiffusionInstructPix2Pix": "an InstructPix2Pix checkpoint",
    "StableDiffusionXLInpaint": "a Stable Diffusion XL inpainting checkpoint",
    "StableDiffusionInpaint": "a Stable Diffusion inpainting checkpoint",
    "StableDiffusionXL": "a Stable Diffusion XL checkpoint",
    "StableDiffusion": "a Stable Diffusion checkpoint",
    "LatentConsistency": "a Stable Diffusion checkpoint",
}


_MODEL_TYPES = {"vit": "a Vision Transformer", "clip_text_model": "a CLIP text encoder", "clip": "a CLIP model"}


def family_of_config(config: Mapping[str, Any]) -> str | None:
    """What a config.json or model_index.json describes, in words; None if it does not say."""
    if pipeline := config.get("_class_name"):
        for start, family in _PIPELINES.items():
            if str(pipeline).startswith(start):
                return family
        return f"a {pipeline}"
    if kind := config.get("model_type"):
        return _MODEL_TYPES.get(kind, f"a model of type {kind!r}")
    if architecture := config.get("architecture"):
        return f"a timm {architecture!r}"
    return None
