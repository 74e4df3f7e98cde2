"""Train the tiny painter: a UNet on 8x8 latents and, together with it, a small CLIP text encoder.

What `eyesel train diffusion --method full` does to networks without any training, around the trained autoencoder.

The betas are linear from 1e-4 to 0.02 rather than Stable Diffusion's scaled ones: sigma ends at 157, so that with
trailing spacing every solver starts from what is noise for all purposes, without the special cases of a terminal signal
of zero.
"""

import random
import shutil
from pathlib import Path

import tokenizer
import torch
import world
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from eyesel.train import fit_diffusion
from training import command_arguments, make_once, write_pictures

STEPS, RATE = 5300, 1e-3
DECAY = 0.4  # the share of the steps in which the rate falls to nothing


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,  # without effect on trailing spacing; diffusers' pipeline insists
        clip_sample=False,
        set_alpha_to_one=True,
        thresholding=False,
        rescale_betas_zero_snr=False,
    )


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=12,
        out_channels=12,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,  # which is, in Stable Diffusion 1's configs, the number of heads
        norm_num_groups=32,
    )


def build_text_encoder(words: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=128,
            projection_dim=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=words.model_max_length,
            hidden_act="quick_gelu",
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def wording(triple: world.Triple, rng: random.Random) -> str:
    """What a picture of the triple is called: mostly all of it, now and then a part. Dropout is the trainer's."""
    size, thing, colour = triple
    parts = [f"a {thing}", f"a {size} {thing}", f"a {thing} on a {colour} background"]
    return rng.choices([triple.caption, *parts], [0.87, 0.04, 0.04, 0.05])[0]


def write_untrained(folder: Path, autoencoder: Path, seed: int) -> None:
    """A whole Stable Diffusion, its autoencoder alone trained."""
    torch.manual_seed(seed)
    words = tokenizer.load(folder / "tokenizer")
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(autoencoder),
        tokenizer=words,
        unet=build_unet(),
        text_encoder=build_text_encoder(words),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    shutil.rmtree(folder / "tokenizer")  # transformers 5 writes a tokenizer.json alone
    tokenizer.save(folder / "tokenizer")


def prepare(folder: Path, autoencoder: Path, each: int, seed: int) -> None:
    """`untrained`, and `data` with captions."""
    write_untrained(folder / "untrained", autoencoder, seed)
    rng = random.Random(f"wordings {seed}")
    write_pictures(folder / "data", world.split()[0], each, seed, lambda triple: wording(triple, rng))


def fit(prepared: Path, output: Path, steps: int, rate: float, seed: int, resume: bool = False) -> None:
    """What the command in the README does, which has the usual steps, rate and seed."""
    fit_diffusion(
        prepared / "data",
        output,
        prepared / "untrained",
        resume=resume,
        method="full",
        train_text_encoder=True,
        caption_dropout=0.1,
        ema=0.999,
        max_steps=steps,
        learning_rate=rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": round(DECAY * steps)},
        warmup_steps=100,
        adam_beta2=0.98,
        per_device_train_batch_size=64,
        save_steps=300,
        logging_steps=50,
        validation_prompt=["a large fox on a blue background", "a small rocket on a red background"],
        seed=seed,
    )


def main() -> None:
    parser = command_arguments(__doc__, steps=STEPS, rate=RATE, threads=2)
    parser.add_argument("--autoencoder", type=Path, default=Path(".runs/autoencoder/final"), help="AutoencoderKL")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prepared = options.output.with_name(f"{options.output.name}-data")
    make_once(
        prepared,
        lambda folder: prepare(folder, options.autoencoder, options.each, options.seed),
        autoencoder=str(options.autoencoder),
        each=options.each,
        seed=options.seed,
    )
    if not options.prepare:
        fit(prepared, options.output, options.steps, options.rate, options.seed, options.resume)


if __name__ == "__main__":
    main()
