"""Images a second of a ViT-B/16, at batch 1 and 8, beside transformers."""

from functools import partial
from pathlib import Path

import torch
import transformers

from benchmarks.measure import Row, main, paired, randomise
from eyesel.weights.checkpoint import open_vit

CLASSES = 1000


def folder(scratch: Path) -> Path:
    """A transformers folder of a ViT-B/16 with random weights and the preprocessing of the original."""
    path = scratch / "vit-base-patch16-224"
    if not (path / "preprocessor_config.json").is_file():
        config = transformers.ViTConfig(num_labels=CLASSES)
        with torch.device("meta"):
            model = transformers.ViTForImageClassification(config)
        randomise(model).save_pretrained(path)
        transformers.ViTImageProcessor().save_pretrained(path)
    return path


def run(scratch: Path, repeats: int) -> list[Row]:
    path = folder(scratch)
    eyesel, _ = open_vit(path, torch.device("cpu"))
    default = transformers.ViTForImageClassification.from_pretrained(path).eval()
    half = transformers.ViTForImageClassification.from_pretrained(path, dtype=torch.bfloat16).eval()
    rows = []
    for batch in (1, 8):
        pixels = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        ours, low = pixels.to(next(eyesel.parameters()).dtype), pixels.bfloat16()
        with torch.inference_mode():
            took = paired(
                {
                    "eyesel, its default": partial(eyesel, ours),
                    "transformers, its default (float32)": partial(default, pixels),
                    "transformers, bfloat16": partial(half, low),
                },
                repeats * 8 // batch,
            )
        best = took["eyesel, its default"]
        rows += [
            Row(f"ViT-B/16, batch {batch}", name, f"{batch / s:.1f} images/s", None if s == best else s / best)
            for name, s in took.items()
        ]
    return rows


if __name__ == "__main__":
    main({"vit": run}, __doc__)
