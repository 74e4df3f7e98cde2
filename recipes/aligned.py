"""`docs/aligned.png`, and how near StyleAligned brings the pictures of the bundled painter to the first of a batch.

The bundled model knows one style and ten background colours, so a colour stands for a style: the first prompt names
its background, the others name none, or each another one.
"""

import argparse
import random
from pathlib import Path

import numpy as np
from PIL import Image

from eyesel import ImageClassifier, StableDiffusion
from gallery import sheet

WAYS = {
    "plain": {},
    "align_style": {"align_style": True},
    "align_style and align_norms": {"align_style": True, "align_norms": True},
}
COLOURS = ["blue", "red", "green", "yellow", "purple", "orange"]
TOGETHER = 8  # pictures of a batch


def border(image: Image.Image) -> np.ndarray:
    """The median colour of the outermost pixels, 0 to 255."""
    pixels = np.asarray(image, np.float64)
    return np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)


def measure(easel: StableDiffusion, eye: ImageClassifier, named: bool) -> None:
    """How far from the first picture's colour the others' borders are, and how many objects are recognised."""
    objects = [label for label in eye.labels if label != "fox"]
    random.Random(0).shuffle(objects)
    found: dict[str, list[tuple[float, bool]]] = {way: [] for way in WAYS}
    for start in range(0, len(objects) - TOGETHER + 2, TOGETHER - 1):
        batch, turn = objects[start : start + TOGETHER - 1], start // (TOGETHER - 1)
        own = [COLOURS[(turn + 1 + i) % len(COLOURS)] for i in range(len(batch))]
        prompts = [f"a large fox on a {COLOURS[turn % len(COLOURS)]} background"]
        prompts += [
            f"a large {o} on a {c} background" if named else f"a large {o}" for o, c in zip(batch, own, strict=True)
        ]
        for way, settings in WAYS.items():
            first, *others = (picture.image for picture in easel.generate(prompts, seed=100 * turn, **settings))
            for thing, image in zip(batch, others, strict=True):
                distance = float(np.abs(border(image) - border(first)).mean())
                found[way].append((distance, eye.classify(image, top_k=1)[0].label == thing))
    print("Each prompt names another background:" if named else "Only the first prompt names its background:")
    for way, pictures in found.items():
        distances, right = zip(*pictures, strict=True)
        print(f"  {way:28} {np.mean(distances):5.1f} of 255 away, {np.mean(right):.1%} recognised, of {len(pictures)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/aligned.png"))
    output: Path = parser.parse_args().output
    easel, eye = StableDiffusion.load("tiny", precision="float32"), ImageClassifier.load("tiny")
    prompts = ["a large fox on a blue background", "a large owl", "a large turtle", "a large rocket"]
    rows = [(way, [p.image for p in easel.generate(prompts, seed=7, **settings)]) for way, settings in WAYS.items()]
    sheet(rows).save(output, optimize=True)
    print(output)
    for named in (False, True):
        measure(easel, eye, named)


if __name__ == "__main__":
    main()
