"""Measure whether the attention maps of the tiny classifier are true, on compositions that were held out of training.

Prints the figures as JSON: the areas under deletion curves (lower is better) and insertion curves (higher is better),
the share of each map that lies on the object, and whether a class's map prefers its object to another beside it. With
--picture it also draws the sheet of docs/attention.md, with --compositions the pictures that the tests use.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
import world
from PIL import Image
from torch import Tensor

import eyesel
from eyesel.taps.faithfulness import area, curve
from eyesel.taps.sheet import MARGIN, sheet

METHODS = ("rollout", "attention", "gradient-rollout", "gradcam")
SHOWN = (
    world.Triple("large", "fox", "purple"),
    world.Triple("small", "penguin", "red"),
    world.Triple("large", "snail", "green"),
    world.Triple("large", "bicycle", "black"),
)
TOGETHER = (world.Triple("large", "helicopter", "blue"), world.Triple("large", "turtle", "blue"))
ACROSS = 8  # compositions in a row of the tests' sheet


def heat_maps(eye: eyesel.ImageClassifier, pictures: list[Image.Image]) -> dict[str, Tensor]:
    """(B, rows, columns) of each method, of plain rollout, and of chance."""
    looks = {method: eye.attention(pictures, method) for method in METHODS}
    looks["rollout, nothing discarded"] = eye.attention(pictures, "rollout", discard_ratio=0.0)
    heats = {name: torch.stack([look.heat for look in answers]) for name, answers in looks.items()}
    chance = torch.rand(heats["rollout"].shape, generator=torch.Generator().manual_seed(0))
    return heats | {"chance": chance}


def on_object(pictures: list[Image.Image], grid: tuple[int, int]) -> Tensor:
    """How much of each patch is not background, (B, rows, columns) from 0 to 1."""
    shares = []
    for picture in pictures:
        difference = np.abs(np.asarray(picture, float) - np.asarray(picture, float)[0, 0]).max(-1) > 40
        mask = Image.fromarray(difference.astype(np.float32))
        shares.append(np.asarray(mask.resize(grid[::-1], Image.Resampling.BOX)))
    return torch.from_numpy(np.stack(shares))


def faithfulness(eye: eyesel.ImageClassifier, pictures: list[Image.Image], steps: int) -> dict[str, dict[str, float]]:
    """Patches are taken away by painting them in the picture's mean colour; the score is that of the class seen."""
    pixels = eye.transform(pictures).to(eye.device, eye.dtype)
    blank = pixels.mean((2, 3), keepdim=True)
    with torch.inference_mode():
        classes = eye.model(pixels).argmax(-1, keepdim=True)

    @torch.inference_mode()
    def score(x: Tensor) -> Tensor:
        return eye.model(x).softmax(-1).gather(1, classes)[:, 0]

    heats = heat_maps(eye, pictures)
    objects = on_object(pictures, heats["chance"].shape[1:])
    figures = {}
    for name, heat in (heats | {"the object itself": objects}).items():
        shares = (heat * objects).sum((1, 2)) / heat.sum((1, 2)).clamp(min=1e-12)
        figures[name] = {
            "deletion": area(curve(score, pixels, blank, heat, steps)).mean().item(),
            "insertion": area(curve(score, pixels, blank, heat, steps, insertion=True)).mean().item(),
            "on_object": shares.mean().item(),
        }
    return figures


def side_by_side(
    eye: eyesel.ImageClassifier, left: world.Triple, right: world.Triple, rng: random.Random
) -> tuple[eyesel.ImageClassifier, Image.Image]:
    """Two compositions as one picture, and the same classifier for pictures that are twice as wide."""
    picture = Image.new("RGB", (2 * world.DRAWN, world.DRAWN))
    picture.paste(world.compose(left, rng), (0, 0))
    picture.paste(world.compose(right, rng), (world.DRAWN, 0))
    transform = eye.transform.with_size(world.SIDE, 2 * world.SIDE)
    return eyesel.ImageClassifier(eye.model, transform, eye.labels), picture


def preference(eye: eyesel.ImageClassifier, pairs: list[tuple[world.Triple, world.Triple]]) -> dict[str, float]:
    """Of two objects side by side: how often one's map lies more on its own side than the other's map does."""
    rng = random.Random("pairs")
    won: dict[str, list[bool]] = {"gradient-rollout": [], "gradcam": []}
    for left, right in pairs:
        right = right._replace(colour=left.colour)
        wide, picture = side_by_side(eye, left, right, rng)
        for method, hits in won.items():
            shares = []
            for triple in (left, right):
                heat = wide.attention(picture, method, target=triple.object).heat
                shares.append((heat[:, : heat.shape[1] // 2].sum() / heat.sum().clamp(min=1e-12)).item())
            hits.append(shares[0] > shares[1])
    return {method: sum(hits) / len(hits) for method, hits in won.items()}


def draw_picture(eye: eyesel.ImageClassifier, path: Path) -> None:
    """Compositions by methods, and two objects of which one is asked for, on one page of 256 colours."""
    rng = random.Random("attention")
    pictures = [world.compose(triple, rng) for triple in SHOWN]
    looks = {
        "rollout": eye.attention(pictures),
        "gradient-rollout": eye.attention(pictures, "gradient-rollout"),
        "attention, last layer": eye.attention(pictures, "attention"),
        "attention, layer 3, head 2": eye.attention(pictures, "attention", layer=3, head=2),
        "pca": [eye.attention(picture, "pca") for picture in pictures],  # each in colours of its own
    }
    rows = []
    for i, (picture, (best,)) in enumerate(zip(pictures, eye.classify(pictures, top_k=1), strict=True)):
        cells = [(name, answers[i].overlay()) for name, answers in looks.items()]
        rows.append([(f"{best.label} {best.score:.0%}", picture), *cells])
    methods = sheet(rows, 200)

    wide, picture = side_by_side(eye, *TOGETHER, rng)
    classes = [
        (f"gradient-rollout of {triple.object}", wide.attention(picture, "gradient-rollout", target=triple.object))
        for triple in TOGETHER
    ]
    cells = [(title, attention.overlay()) for title, attention in classes]
    chosen = sheet([[("a picture twice as wide", picture), *cells]], 2 * 200 + MARGIN)
    page = Image.new("RGB", (methods.width, methods.height + chosen.height - MARGIN), "white")
    page.paste(methods, (0, 0))
    page.paste(chosen, (0, methods.height - MARGIN))
    palette = page.quantize(256)
    page.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def draw_compositions(triples: list[world.Triple], path: Path) -> None:
    """The compositions as the models see them, 32 x 32 pixels, `ACROSS` a row, in the order of the triples."""
    page = Image.new("RGB", (ACROSS * world.SIDE, len(triples) // ACROSS * world.SIDE))
    for i, picture in enumerate(world.draw(triples, 1, seed=2)[:, 0]):
        page.paste(Image.fromarray(picture), (i % ACROSS * world.SIDE, i // ACROSS * world.SIDE))
    page.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--pictures", type=int, default=128, help="compositions to measure on")
    parser.add_argument("--steps", type=int, default=16, help="points of a curve")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="only draw the sheet of docs/attention.md into this file")
    parser.add_argument("--compositions", type=Path, help="only draw the pictures of the tests into this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    held_out = world.split()[1]
    mixed = [held_out[i * 37 % len(held_out)] for i in range(len(held_out))]  # 37: all triples, well mixed
    eye = eyesel.ImageClassifier.load("tiny")
    if options.picture:
        draw_picture(eye, options.picture)
    if options.compositions:
        draw_compositions(mixed[: 4 * ACROSS], options.compositions)
    if options.picture or options.compositions:
        return
    rng = random.Random("evaluation")
    pictures = [world.compose(triple, rng) for triple in mixed[: options.pictures]]
    figures = {
        "pictures": len(pictures),
        "faithfulness": faithfulness(eye, pictures, options.steps),
        "preference": preference(eye, list(zip(mixed[:64], mixed[64:], strict=True))),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
