"""Measure the tiny models on the size/object/colour triples that were held out of training.

Prints the figures as JSON; with --cards it also writes them into the model cards beside the weights.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import world
from diffusers import AutoencoderKL
from PIL import Image
from publish import ASSETS
from train_autoencoder import pixels

import eyesel

CARDS = Path(__file__).parent / "cards"


def percent(hits: list[bool]) -> float:
    return round(100 * sum(hits) / len(hits), 2)


def names(eye: eyesel.ImageClassifier, pictures: list[Image.Image]) -> list[str]:
    return [best.label for (best,) in eye.classify(pictures, top_k=1, batch_size=64)]


def batches(items: list, size: int = 50) -> Iterator[list]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def evaluate_classifier(eye: eyesel.ImageClassifier, triples: list[world.Triple], each: int) -> dict[str, float]:
    """Top-1 on 256-pixel compositions, which the model's own preprocessing reduces."""
    rng = random.Random("evaluation")
    asked = [triple for triple in triples for _ in range(each)]
    answers = []
    for batch in batches(asked):
        answers += names(eye, [world.compose(triple, rng) for triple in batch])
    hits = [triple.object == answer for triple, answer in zip(asked, answers, strict=True)]
    by_size = {
        size: [hit for triple, hit in zip(asked, hits, strict=True) if triple.size == size] for size in world.SIZES
    }
    return {"pictures": len(hits), "top1": percent(hits)} | {f"top1_{size}": percent(by_size[size]) for size in by_size}


@torch.inference_mode()
def evaluate_autoencoder(folder: Path, triples: list[world.Triple], each: int) -> dict[str, float]:
    """Mean PSNR in decibels of what comes back from the latents."""
    autoencoder = AutoencoderKL.from_pretrained(folder).eval()
    pictures = torch.from_numpy(world.draw(triples, each, seed=1)).flatten(0, 1)
    ratios = []
    for batch in pictures.split(64):
        x = pixels(batch)
        back = autoencoder.decode(autoencoder.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        ratios += (-10 * ((back - x) / 2).square().mean((1, 2, 3)).log10()).tolist()
    return {"pictures": len(ratios), "psnr": round(float(np.mean(ratios)), 2), "psnr_worst": round(min(ratios), 2)}


def evaluate_painter(
    eye: eyesel.ImageClassifier, easel: eyesel.StableDiffusion, triples: list[world.Triple], seed: int, **settings
) -> tuple[dict[str, object], list[Image.Image]]:
    """Figures, and the pictures: picture i is painted from seed + i, with settings as `generate` takes them."""
    pictures = []
    for batch in batches(triples):
        painted = easel.generate([triple.caption for triple in batch], seed=seed + len(pictures), **settings)
        pictures += [picture.image for picture in painted]
    answers = names(eye, pictures)
    objects = [triple.object == answer for triple, answer in zip(triples, answers, strict=True)]
    colours = [
        triple.colour == world.nearest_colour(np.asarray(picture))
        for triple, picture in zip(triples, pictures, strict=True)
    ]
    missed = Counter(triple.object for triple, hit in zip(triples, objects, strict=True) if not hit)
    figures = {"prompts": len(triples), "object": percent(objects), "colour": percent(colours)}
    for size in world.SIZES:
        figures[f"object_{size}"] = percent([hit for t, hit in zip(triples, objects, strict=True) if t.size == size])
    return figures | {"missed": dict(missed.most_common(12))}, pictures


def draw_sheet(pictures: list[Image.Image], path: Path, across: int = 16, zoom: int = 3) -> None:
    side = zoom * world.SIDE
    sheet = Image.new("RGB", (across * side, -(-len(pictures) // across) * side))
    for i, picture in enumerate(pictures):
        sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (i % across * side, i // across * side))
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--classifier", type=Path, default=ASSETS / "classifier", help="it also judges the painter")
    parser.add_argument("--painter", type=Path, default=ASSETS / "painter")
    parser.add_argument("--prompts", type=int, default=500, help="held-out prompts to paint; 0 leaves the painter out")
    parser.add_argument("--each", type=int, default=8, help="pictures drawn of every held-out triple")
    parser.add_argument("--guidance", type=float, nargs="+", default=[7.5, 5, 3], help="each is measured")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--solver", help="one of eyesel's, instead of the checkpoint's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sheet", type=Path, help="also save the pictures of the last guidance as one")
    parser.add_argument("--cards", action="store_true", help="write the figures into the model cards")
    options = parser.parse_args()
    if options.cards and not options.prompts:
        parser.error("--cards needs the painter's figures, too: --prompts 500")
    torch.set_num_threads(options.threads)

    held_out = world.split()[1]
    eye = eyesel.ImageClassifier.load(options.classifier)
    figures = {
        "classifier": evaluate_classifier(eye, held_out, options.each),
        "autoencoder": evaluate_autoencoder(options.painter / "vae", held_out, options.each),
    }
    if options.prompts:
        asked = [held_out[i * 37 % len(held_out)] for i in range(options.prompts)]  # 37: all triples, well mixed
        easel = eyesel.StableDiffusion.load(options.painter)
        figures["painter"] = []
        for guidance in options.guidance:
            settings = {"steps": options.steps, "guidance": guidance, "solver": options.solver}
            measured, pictures = evaluate_painter(eye, easel, asked, options.seed, **settings)
            figures["painter"].append(settings | measured)
        if options.sheet:
            draw_sheet(pictures, options.sheet)
    print(json.dumps(figures, indent=2))
    if options.cards:
        row = "| {guidance:g} | {object} % | {object_small} % | {object_large} % | {colour} % |"
        rows = "\n".join(row.format(**measured) for measured in figures["painter"])
        words = {"rows": rows, "objects": ", ".join(world.LABELS), "colours": ", ".join(world.COLOURS)}
        words |= {"prompts": options.prompts, "steps": options.steps}
        for part, folder in (("classifier", options.classifier), ("painter", options.painter)):
            card = (CARDS / f"{part}.md").read_text().format(**figures, **words)
            (folder / "README.md").write_text(card)


if __name__ == "__main__":
    main()
