"""Train the tiny classifier: a Vision Transformer of 32x32 pixels in 64 patches that names the object of a picture.

What `eyesel train classifier` does to a network without any training. It sees real compositions only, cropped and
changed a little, so that it also reads pictures that were enlarged and reduced, or painted: it is the judge of the
painter and must not have learned from it. What is tested on are the triples that were held out.
"""

from pathlib import Path

import torch
import world
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from eyesel.train import fit_classifier
from training import command_arguments, make_once, write_pictures

STEPS, RATE = 4500, 1e-3
DECAY = 0.6  # the share of the steps in which the rate falls to nothing


def build() -> ViTForImageClassification:
    return ViTForImageClassification(
        ViTConfig(
            image_size=world.SIDE,
            patch_size=4,
            hidden_size=128,
            num_hidden_layers=6,
            num_attention_heads=4,
            intermediate_size=512,
            id2label=dict(enumerate(world.LABELS)),
            label2id={label: i for i, label in enumerate(world.LABELS)},
        )
    )


def processor() -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": world.SIDE, "width": world.SIDE}, resample=2)  # mean and deviation 0.5


def write_untrained(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    build().save_pretrained(folder)
    processor().save_pretrained(folder)


def prepare(folder: Path, each: int, seed: int) -> None:
    """`untrained`, and `data` in class folders."""
    write_untrained(folder / "untrained", seed)
    training, held_out = world.split()
    write_pictures(folder / "data/train", training, each, seed)
    write_pictures(folder / "data/test", held_out, 4, seed + 1)


def fit(prepared: Path, output: Path, steps: int, rate: float, seed: int, resume: bool = False) -> None:
    """What the command in the README does, which has the usual steps, rate and seed."""
    fit_classifier(
        prepared / "data",
        output,
        prepared / "untrained",
        resume=resume,
        crop=0.6,
        flip=False,
        rand_augment=2,
        max_steps=steps,
        learning_rate=rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": round(DECAY * steps)},
        warmup_steps=100,
        adam_beta2=0.98,
        weight_decay=0.01,
        label_smoothing_factor=0.05,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=64,
        logging_steps=50,
        seed=seed,
    )


def main() -> None:
    options = command_arguments(__doc__, steps=STEPS, rate=RATE, threads=1).parse_args()
    torch.set_num_threads(options.threads)
    prepared = options.output.with_name(f"{options.output.name}-data")
    make_once(
        prepared,
        lambda folder: prepare(folder, options.each, options.seed),
        each=options.each,
        seed=options.seed,
    )
    if not options.prepare:
        fit(prepared, options.output, options.steps, options.rate, options.seed, options.resume)


if __name__ == "__main__":
    main()
