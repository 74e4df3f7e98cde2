"""Tiny random checkpoints in the real formats, made by transformers and diffusers themselves."""

import json
from pathlib import Path

import diffusers
import torch
import transformers
from tokenizers import pre_tokenizers

from eyesel.text.tokenizer import ClipTokenizer

WORDS = ["a", "small", "large", "fox", "owl", "on", "blue", "red", "background"]


def randomise(model, seed=0):
    """Weights of a size that lets every layer matter: fresh models leave biases at 0 and norms at 1."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        draw = torch.randn(p.shape, generator=generator)
        p.data = p.data + (0.05 if p.dim() > 1 else 0.2) * draw
    return model.eval()


def write_tokenizer(folder: Path, pad: str = "<|endoftext|>", max_length: int = 77) -> int:
    """A CLIP vocabulary of single bytes and a few merged words; returns its size."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{c}</w>" for c in alphabet)]
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merge = (pieces[0], pieces[1])
            pieces[:2] = ["".join(merge)]
            if merge not in merges:
                merges.append(merge)
                if pieces[0] not in tokens:
                    tokens.append(pieces[0])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad,
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": max_length, **special})
    )
    return len(tokens)


SCHEDULERS = {
    "epsilon": diffusers.PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        set_alpha_to_one=False,
    ),
    "v": diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    ),
    "xl": diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    ),
}
CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"


def _text_encoder(vocabulary: int, act: str, projection: bool, seed: int, dim: int = 24):
    config = transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=dim,
        num_hidden_layers=3,
        num_attention_heads=1 if dim == 16 else 2,
        intermediate_size=48,
        hidden_act=act,
        projection_dim=20,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return randomise(kind(config), seed)


def write_painter(folder: Path, family: str) -> Path:
    """A Stable Diffusion folder of family sd1, sd2 (v-prediction) or sdxl, saved by diffusers."""
    xl = family == "sdxl"
    names = ["tokenizer", "tokenizer_2"] if xl else ["tokenizer"]
    for i, name in enumerate(names):
        # OpenCLIP's tokenizers pad with id 0, "!" in the real vocabulary
        vocabulary = write_tokenizer(folder / name, pad="!" if i or family == "sd2" else "<|endoftext|>")
    tokenizers = [transformers.CLIPTokenizer.from_pretrained(folder / name) for name in names]
    shape = {
        "block_out_channels": (16, 32),
        "down_block_types": (PLAIN, CROSS) if xl else (CROSS, PLAIN),
        "up_block_types": (CROSS_UP, PLAIN_UP) if xl else (PLAIN_UP, CROSS_UP),
        "attention_head_dim": 2 if family == "sd1" else (2, 4),
        "cross_attention_dim": 48 if xl else 24,
        "norm_num_groups": 8,
        "layers_per_block": 1,
        "sample_size": 8,
        "use_linear_projection": family != "sd1",
    }
    if xl:
        shape |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 20,
            "transformer_layers_per_block": (1, 2),
        }
    parts = {
        "unet": randomise(diffusers.UNet2DConditionModel(**shape)),
        "vae": randomise(
            diffusers.AutoencoderKL(
                block_out_channels=(8, 16, 16, 16),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                norm_num_groups=8,
            )
        ),
        "text_encoder": _text_encoder(vocabulary, "quick_gelu" if family == "sd1" else "gelu", False, 1),
        "tokenizer": tokenizers[0],
        "scheduler": SCHEDULERS[{"sd1": "epsilon", "sd2": "v", "sdxl": "xl"}[family]],
    }
    if xl:
        parts |= {"text_encoder_2": _text_encoder(vocabulary, "gelu", True, 2), "tokenizer_2": tokenizers[1]}
        pipeline = diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        pipeline = diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.save_pretrained(folder)
    return folder


def write_standard_painter(folder: Path, family: str, in_channels: int = 4) -> Path:
    """A tiny folder with everything that a single file takes for granted: the vocabulary of CLIP, 32 groups, heads by
    the rule of the family (sd1, sd2, sdxl or refiner).
    """
    xl = family in ("sdxl", "refiner")
    names = {"sdxl": ["tokenizer", "tokenizer_2"], "refiner": ["tokenizer_2"]}.get(family, ["tokenizer"])
    for name in names:
        pad = "!" if name == "tokenizer_2" or family == "sd2" else "<|endoftext|>"
        ClipTokenizer.bundled(pad).save(folder / name)
    tokenizers = {name: transformers.CLIPTokenizer.from_pretrained(folder / name) for name in names}
    attends = {"sd1": (1, 1, 0), "sd2": (1, 0), "sdxl": (0, 1), "refiner": (0, 1, 0)}[family]
    shape = {
        "in_channels": in_channels,
        "block_out_channels": (32, 64, 64)[: len(attends)],
        "down_block_types": tuple(CROSS if a else PLAIN for a in attends),
        "up_block_types": tuple(CROSS_UP if a else PLAIN_UP for a in reversed(attends)),
        "attention_head_dim": 8 if family == "sd1" else 1,
        "cross_attention_dim": 32 if family == "sdxl" else 16,
        "layers_per_block": 2 if family == "sd1" else 1,
        "sample_size": 8,
        "use_linear_projection": family != "sd1",
    }
    if xl:
        shape |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": (6 if family == "sdxl" else 5) * 8 + 20,
            "transformer_layers_per_block": (1, 2) if family == "sdxl" else 2,
        }
    scheduler = SCHEDULERS["xl" if xl else "v" if family == "sd2" else "epsilon"]
    levels = 4
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        scaling_factor=0.13025 if xl else 0.18215,
    )
    parts = {"unet": randomise(diffusers.UNet2DConditionModel(**shape)), "vae": randomise(vae)}
    sizes = {"vocabulary": 49408, "dim": 16}
    if family != "refiner":
        act = "gelu" if family == "sd2" else "quick_gelu"
        parts |= {"text_encoder": _text_encoder(act=act, projection=False, seed=1, **sizes)}
        parts |= {"tokenizer": tokenizers["tokenizer"]}
    if xl:
        parts |= {"text_encoder_2": _text_encoder(act="gelu", projection=True, seed=2, **sizes)}
        parts |= {"tokenizer_2": tokenizers["tokenizer_2"], "scheduler": scheduler, "add_watermarker": False}
        if family == "refiner":
            pipeline = diffusers.StableDiffusionXLImg2ImgPipeline(
                text_encoder=None, tokenizer=None, requires_aesthetics_score=True, **parts
            )
        else:
            pipeline = diffusers.StableDiffusionXLPipeline(**parts)
    else:
        kind = diffusers.StableDiffusionPipeline if in_channels == 4 else diffusers.StableDiffusionInpaintPipeline
        pipeline = kind(
            **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.save_pretrained(folder)
    return folder


def write_classifier(folder: Path, **change) -> Path:
    """A transformers ViT folder with labels and preprocessing."""
    labels = ["cat", "fox", "owl", "ant", "bee", "cow", "dog"]
    config = transformers.ViTConfig(
        **{
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "image_size": 32,
            "patch_size": 8,
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
            **change,
        }
    )
    randomise(transformers.ViTForImageClassification(config)).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
