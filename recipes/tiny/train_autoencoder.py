"""Train the autoencoder of the tiny painter: 32x32 pictures to 8x8 latents of 12 channels and back.

Twelve channels rather than Stable Diffusion's four: a patch of 4x4 pixels has 48 numbers and there is no room for
a network that would guess the missing ones. The latents are standardised channel by channel inside the quantising
convolutions, so the public format needs nothing but `scaling_factor` 1.
"""

import torch
import world
from diffusers import AutoencoderKL
from minutes import MinutesTrainer, Timed
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from training import arguments


def build() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=12,
        norm_num_groups=16,
        sample_size=world.SIDE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def pixels(pictures: Tensor) -> Tensor:
    """(..., 32, 32, 3) uint8 -> (..., 3, 32, 32) in -1..1."""
    return pictures.movedim(-1, -3).float() / 127.5 - 1


def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.diff(dim=-1), x.diff(dim=-2)


class AutoencoderTask(Timed):
    """The autoencoder with its loss as forward()."""

    def __init__(self) -> None:
        super().__init__()
        self.autoencoder = build()

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        x = pixels(pictures)
        posterior = self.autoencoder.encode(x).latent_dist
        error = self.autoencoder.decode(posterior.sample()).sample - x
        edges = sum(slope.abs().mean() for slope in slopes(error))  # error of slopes = slope of error
        return {"loss": error.abs().mean() + 2 * error.square().mean() + 0.5 * edges + 1e-6 * posterior.kl().mean()}


class Pictures(Dataset):
    def __init__(self, pictures: Tensor) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"pictures": self.pictures[i]}


@torch.no_grad()
def standardise(autoencoder: AutoencoderKL, x: Tensor) -> None:
    """Give every latent channel mean 0 and deviation 1 over the pictures x, changing only the two 1x1 convolutions."""
    latents = autoencoder.encode(x).latent_dist.mean  # (n, 12, 8, 8)
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, out = autoencoder.quant_conv, autoencoder.post_quant_conv
    channels = len(mean)  # quant_conv yields means, then log variances
    into.weight[:channels] /= deviation[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / deviation
    into.bias[channels:] -= 2 * deviation.log()
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= deviation[None, :, None, None]


def main() -> None:
    parser = arguments(__doc__, rate=1.5e-3, threads=1)
    parser.add_argument("--minutes", type=float, default=35, help="training time in all, earlier runs included")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    pictures = torch.from_numpy(world.draw(world.split()[0], options.each, options.seed)).flatten(0, 1)
    task = AutoencoderTask()
    trainer = MinutesTrainer(
        task,
        TrainingArguments(
            output_dir=str(options.output),
            max_steps=1_000_000,  # the clock stops it
            per_device_train_batch_size=64,
            learning_rate=options.rate,
            weight_decay=0.01,
            adam_beta2=0.98,
            max_grad_norm=1.0,
            save_steps=300,
            save_total_limit=2,
            logging_steps=50,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            ignore_data_skip=True,  # a resumed run need not replay the batches it has seen
            use_cpu=not torch.cuda.is_available(),
            seed=options.seed,
        ),
        train_dataset=Pictures(pictures),
        minutes=options.minutes,
        decay=0.6,
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(options.output)) if options.resume else None)
    autoencoder = task.autoencoder.eval()
    standardise(autoencoder, pixels(pictures[:: max(1, len(pictures) // 2048)]))
    autoencoder.save_pretrained(options.output / "final")


if __name__ == "__main__":
    main()
