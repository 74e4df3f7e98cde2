"""Which family a checkpoint belongs to, so that one that eyesel cannot open is refused by its name."""

from collections.abc import Iterable, Mapping
from typing import Any

# A tensor name that gives away what eyesel does not open, although parts of it may look as if; the more specific first.
_UNSUPPORTED = {
    "double_blocks.0.img_attn.norm.key_norm.scale": "a Flux checkpoint",
    "single_stream_modulation.lin.weight": "a Flux 2 checkpoint",
    "distilled_guidance_layer.": "a Chroma checkpoint",
    "joint_blocks.0.": "a Stable Diffusion 3 checkpoint",
    "double_layers.0.attn.w1q.weight": "an AuraFlow checkpoint",
    "cap_embedder.0.weight": "a Lumina checkpoint",
    "patchify_proj.weight": "an LTX-Video checkpoint",
    "individual_token_refiner.": "a HunyuanVideo checkpoint",
    "head.modulation": "a Wan checkpoint",
    "clip_txt_mapper.weight": "a Stable Cascade checkpoint",
    "control_model.": "a ControlNet checkpoint",
    "controlnet_cond_embedding.": "a ControlNet checkpoint",
    "motion_modules.": "an AnimateDiff motion module",
    "edm_mean": "a Playground 2.5 checkpoint",
    "edm_vpred.sigma_max": "a CosXL checkpoint",
    "model.diffusion_model.input_blocks.10.0.skip_connection.bias": "a Stable Diffusion upscaler",
}
_SIGNATURES = {
    **_UNSUPPORTED,
    "ip_adapter": "an IP-Adapter",
    "conditioner.embedders.1.model.": "a single-file Stable Diffusion XL checkpoint",
    "conditioner.embedders.0.model.": "a single-file Stable Diffusion XL refiner",
    "cond_stage_model.model.": "a single-file Stable Diffusion 2 checkpoint",
    "model.diffusion_model.": "a single-file Stable Diffusion checkpoint",
    "first_stage_model.": "an autoencoder alone",
    "decoder.up.0.block.0.norm1.weight": "an autoencoder alone",
    "lora_controlnet": "a Control-LoRA",
    "lora_unet_": "a LoRA",
    "lora_te": "a LoRA",
    "lycoris_": "a LoRA",
    ".lora_A.": "a LoRA",
    ".lora_up.weight": "a LoRA",
    ".lora.up.weight": "a LoRA",
    "_lora.up.weight": "a LoRA",
    ".lora_linear_layer.up.weight": "a LoRA",
    ".hada_w1_a": "a LoRA",
    ".lokr_w": "a LoRA",
    "string_to_param": "a textual-inversion embedding",
    "emb_params": "a textual-inversion embedding",
    "clip_g": "a textual-inversion embedding",
    "transformer_blocks.0.norm1_context.linear.weight": "a Flux or Stable Diffusion 3 transformer",
    "up_blocks.0.resnets.0.time_emb_proj.weight": "a Stable Diffusion UNet alone",
    "decoder.up_blocks.0.resnets.0.norm1.weight": "an autoencoder alone",
    "text_model.encoder.layers.0.self_attn.q_proj.weight": "a CLIP text encoder alone",
    "vision_model.encoder.layers.0.self_attn.q_proj.weight": "a CLIP model",
    "encoder.layer.0.attention.attention.query.weight": "a Vision Transformer",
    "layers.0.attention.q_proj.weight": "a Vision Transformer",
    "blocks.0.attn.qkv.weight": "a Vision Transformer",
    "Transformer/encoderblock_0/": "a Vision Transformer",
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


def is_unsupported(names: Iterable[str]) -> bool:
    """Whether they are of a family that eyesel recognises only to refuse it."""
    return family_of_tensors(names) in _UNSUPPORTED.values()


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


_MODEL_TYPES = {
    "vit": "a Vision Transformer",
    "deit": "a Vision Transformer (DeiT)",
    "dinov2": "a Vision Transformer (DINOv2)",
    "dinov2_with_registers": "a Vision Transformer (DINOv2 with registers)",
    "clip_text_model": "a CLIP text encoder",
    "clip_vision_model": "a CLIP image encoder",
    "clip": "a CLIP model",
}


def family_of_config(config: Mapping[str, Any]) -> str | None:
    """What a config.json or model_index.json describes, in words; None if it does not say."""
    if pipeline := config.get("_class_name"):
        for start, family in _PIPELINES.items():
            if str(pipeline).startswith(start):
                return family
        return f"a {pipeline}"
    if kind := config.get("model_type"):
        return _MODEL_TYPES.get(str(kind), f"a model of type {kind!r}")
    if architecture := config.get("architecture"):
        return f"a timm {architecture!r}"
    return None
