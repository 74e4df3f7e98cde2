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
from training import arguments, write_pictures


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


def prepare(folder: Path, each: int, seed: int) -> None:
    """`untrained`, and `data` in class folders."""
    torch.manual_seed(seed)
    build().save_pretrained(folder / "untrained")
    processor().save_pretrained(folder / "untrained")
    training, held_out = world.split()
    write_pictures(folder / "data/train", training, each, seed)
    write_pictures(folder / "data/test", held_out, 4, seed + 1)


def main() -> None:
    options = arguments(__doc__, steps=4500, rate=1e-3, threads=1).parse_args()
    torch.set_num_threads(options.threads)
    work = options.output.with_name(f"{options.output.name}-data")
    if not options.resume:
        prepare(work, options.each, options.seed)
    fit_classifier(
        work / "data",
        options.output,
        work / "untrained",
        resume=options.resume,
        max_steps=options.steps,
        crop=0.6,
        flip=False,
        rand_augment=2,
        learning_rate=options.rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": round(0.6 * options.steps)},
        warmup_steps=100,
        adam_beta2=0.98,
        weight_decay=0.01,
        label_smoothing_factor=0.05,
        per_device_train_batch_size=64,
        logging_steps=50,
        seed=options.seed,
    )


if __name__ == "__main__":
    main()
