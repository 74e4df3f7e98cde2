"""Train the tiny classifier: a Vision Transformer of 32x32 pixels in 64 patches that names the object of a picture.

It sees real compositions only, shifted, scaled, blurred and recoloured a little, so that it also reads pictures that
were enlarged and reduced, or painted: it is the judge of the painter and must not have learned from it.
"""

import torch
import world
from torch import Tensor
from torch.nn import functional as F
from training import Learner, Rows, arguments, train
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, default_data_collator


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


def augment(x: Tensor) -> Tensor:
    """Move, scale, turn, blur, recolour and roughen every picture of the batch (n, 3, 32, 32) by chance."""
    n = len(x)

    def chance(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(n, *shape).uniform_(low, high)

    angle, zoom = chance(-0.12, 0.12), chance(0.9, 1.12)
    rows = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(n, 2, 2) * zoom[:, None, None]
    grid = F.affine_grid(torch.cat([rows, chance(-0.15, 0.15, 2, 1)], 2), list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    x = torch.where(chance(0, 1, 1, 1, 1) < 0.8, moved, x)
    side = chance(0, 0.25, 1, 1, 1)  # weight of the two neighbours
    for dim, pad in ((-1, (1, 1, 0, 0)), (-2, (0, 0, 1, 1))):
        wide = F.pad(x, pad, mode="replicate")
        left, right = wide.narrow(dim, 0, world.SIDE), wide.narrow(dim, 2, world.SIDE)
        x = (1 - 2 * side) * x + side * (left + right)
    x = x * chance(0.85, 1.15, 1, 1, 1) + chance(-0.1, 0.1, 3, 1, 1)
    return (x + torch.randn_like(x) * chance(0, 0.12, 1, 1, 1)).clamp(-1, 1)


class ClassifierLearner(Learner):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = build()

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self.classifier(pixel_values).logits, labels, label_smoothing=0.05)}


def main() -> None:
    options = arguments(__doc__, minutes=55, rate=1e-3, threads=1).parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    triples = world.split()[0]
    pictures = torch.from_numpy(world.draw(triples, options.each, options.seed)).flatten(0, 1)
    labels = torch.tensor([triple.label for triple in triples]).repeat_interleave(options.each)

    def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        batch = default_data_collator(rows)
        return {"pixel_values": augment(batch["pictures"].movedim(-1, 1) / 127.5 - 1), "labels": batch["labels"]}

    learner = ClassifierLearner()
    train(learner, Rows(pictures=pictures, labels=labels), options, collate, decay=0.6)
    learner.classifier.save_pretrained(options.output / "final")
    processor().save_pretrained(options.output / "final")


if __name__ == "__main__":
    main()
