"""Train the tiny painter: a UNet on 8x8 latents and, together with it, a small CLIP text encoder.

The betas are linear from 1e-4 to 0.02 rather than Stable Diffusion's scaled ones: sigma ends at 157, so that with
trailing spacing every solver starts from what is noise for all purposes, without the special cases of a terminal signal
of zero.
"""

import copy
from pathlib import Path

import tokenizer
import torch
import world
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from train_autoencoder import pixels
from training import Learner, Rows, arguments, train
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

AVERAGE = 0.999  # decay of the moving average of the weights


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


def wordings(triple: world.Triple) -> dict[str, float]:
    """What a picture of the triple may be called, and how often: all of it, a part, or nothing (for guidance)."""
    size, thing, colour = triple
    parts = [f"a {thing}", f"a {size} {thing}", f"a {thing} on a {colour} background"]
    return {triple.caption: 0.78, **dict.fromkeys(parts, 0.04), "": 0.1}


class PainterLearner(Learner):
    def __init__(self, words: CLIPTokenizer) -> None:
        super().__init__()
        self.nets = nn.ModuleDict({"unet": build_unet(), "text_encoder": build_text_encoder(words)})
        self.average = copy.deepcopy(self.nets).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("alphas", scheduler().alphas_cumprod, persistent=False)
        self.register_buffer("odds", torch.tensor([*wordings(world.Triple("", "", "")).values()]), persistent=False)

    def forward(self, latents: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """latents (n, 12, 8, 8); tokens (n, wordings, context)."""
        n = len(latents)
        chosen = torch.multinomial(self.odds, n, replacement=True)
        text = self.nets["text_encoder"](tokens[range(n), chosen]).last_hidden_state  # (n, context, 128)
        # Half of the times even, half around the middle, where it is decided what is in the picture.
        part = torch.where(torch.rand(n) < 0.5, torch.rand(n), torch.sigmoid(torch.randn(n) - 0.3))
        times = (part * len(self.alphas)).long()
        signal = self.alphas[times].view(n, 1, 1, 1)
        noise = torch.randn_like(latents)
        noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        velocity = signal.sqrt() * noise - (1 - signal).sqrt() * latents
        return {"loss": F.mse_loss(self.nets["unet"](noisy, times, text).sample, velocity)}

    @torch.no_grad()
    def after_step(self) -> None:
        self.steps += 1
        steps = self.steps.item()
        weight = 1 - min(AVERAGE, (1 + steps) / (10 + steps))
        torch._foreach_lerp_([*self.average.parameters()], [*self.nets.parameters()], weight)

    def pipeline(self, words: CLIPTokenizer, autoencoder: AutoencoderKL) -> StableDiffusionPipeline:
        """The averaged weights as what diffusers knows as a Stable Diffusion."""
        return StableDiffusionPipeline(
            vae=autoencoder,
            tokenizer=words,
            **self.average.eval(),
            scheduler=scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, pictures: Tensor) -> Tensor:
    """(n, 32, 32, 3) uint8 -> (n, 12, 8, 8)"""
    return torch.cat([autoencoder.encode(pixels(batch)).latent_dist.mean for batch in pictures.split(256)])


def main() -> None:
    parser = arguments(__doc__, minutes=75, rate=1e-3, threads=2)
    parser.add_argument("--autoencoder", type=Path, default=Path(".runs/autoencoder/final"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    triples = world.split()[0]
    pictures = torch.from_numpy(world.draw(triples, options.each, options.seed)).flatten(0, 1)
    latents = encode(AutoencoderKL.from_pretrained(options.autoencoder), pictures)
    words = tokenizer.load(options.output / "tokenizer")
    settings = {"padding": "max_length", "max_length": tokenizer.CONTEXT, "return_tensors": "pt"}
    tokens = torch.stack([words([*wordings(triple)], **settings).input_ids for triple in triples])
    rows = Rows(latents=latents, tokens=tokens.repeat_interleave(options.each, dim=0))
    train(PainterLearner(words), rows, options, collate=None, decay=0.4)


if __name__ == "__main__":
    main()
