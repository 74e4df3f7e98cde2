"""Style injection beside plain image to image and AdaIN on the latents alone: content kept and style taken.

    python -m benchmarks.style --pictures docs      # the table, docs/style-pareto.png and docs/style.png

Besides the two baselines stand style injection with StyleID's own statistics (`match` 0), and AdaIN that is given the
detail which the autoencoder loses, as injection is. Every method has a dial, and is run at several of its settings over
all pairs of 20 contents and 10 styles (style_pictures.py) with the bundled painter. One method dominates a setting of
another where it keeps more of the content and takes more of the style, on the straight lines between the settings of
its own that were measured.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from benchmarks.style_measures import Eye, content_distance, similarity, style_distances
from benchmarks.style_pictures import contents, photograph, styles
from benchmarks.style_plot import pareto
from eyesel import ImageClassifier, StableDiffusion
from eyesel.cli.sheets import sheet
from eyesel.images import save_image
from eyesel.stylize import Inversions, detailed
from eyesel.taps.style import adain

STEPS, LOOKS = 15, 3
STRENGTHS = (0.08, 0.15, 0.3, 0.4, 0.5, 0.8)
NOTHING = "the content itself"
INJECTION, STYLEID, IMAGE = "style injection", "style injection, match 0", "image to image"
ADAIN, ADAIN_DETAILED = "AdaIN on latents", "AdaIN on latents, with detail"
Method = Callable[[str, str, float], Image.Image]  # of the names of content and style, and the setting
Subjects = dict[str, Image.Image]
Looks = dict[str, tuple[Image.Image, str]]
MEASURES = ("similarity", "content", "gram", "moments", "colours")


def methods(easel: StableDiffusion, subjects: Subjects, looks: Looks) -> dict[str, tuple[Method, tuple[float, ...]]]:
    """Each with the settings of its dial."""
    inversions = Inversions()

    def restyled(content: str, style: str, strength: float, match: float | None) -> Image.Image:
        return easel.stylize(
            subjects[content],
            looks[style][0],
            strength=strength,
            match=match,
            steps=STEPS,
            looks=LOOKS,
            keep_features=True,
            inversions=inversions,
        ).image

    def image_to_image(content: str, style: str, strength: float) -> Image.Image:
        words = looks[style][1]
        return easel.generate(words, image=subjects[content], strength=strength, steps=STEPS, seed=1).image

    def on_latents(content: str, style: str, strength: float) -> Image.Image:
        latents = easel.encode([subjects[content], looks[style][0]])
        return easel.decode(torch.lerp(latents[:1], adain(latents[:1], latents[1:], [1.0]), strength))[0]

    def with_detail(content: str, style: str, strength: float) -> Image.Image:
        back = easel.decode(easel.encode([subjects[content]]))[0]
        return detailed(on_latents(content, style, strength), subjects[content], back, 1 - strength)

    return {
        NOTHING: (lambda content, style, strength: subjects[content], (0.0,)),
        INJECTION: (partial(restyled, match=None), STRENGTHS),
        STYLEID: (partial(restyled, match=0.0), (0.15, 0.3, 0.5, 0.8)),
        IMAGE: (image_to_image, (0.25, 0.5, 0.75)),
        ADAIN: (on_latents, (0.25, 0.5, 0.75, 1.0)),
        ADAIN_DETAILED: (with_detail, (0.25, 0.5, 0.75, 1.0)),
    }


def measure(easel: StableDiffusion, every: int = 1) -> dict[str, dict[float, dict[str, float]]]:
    """Method -> setting -> the mean of each measure; `every` leaves out pairs, for a quick look."""
    eye, subjects, looks = Eye(ImageClassifier.load("tiny")), contents(easel), styles(easel)
    seen_contents = {name: eye.look(picture) for name, picture in subjects.items()}
    seen_styles = {name: eye.look(picture) for name, (picture, _) in looks.items()}
    pairs = [(one, other) for one in subjects for other in looks][::every]
    table: dict[str, dict[float, dict[str, float]]] = {}
    for method, (make, settings) in methods(easel, subjects, looks).items():
        for setting in settings:
            rows = []
            for one, other in pairs:
                picture = make(one, other, setting)
                seen = eye.look(picture)
                kept = similarity(picture, subjects[one]), content_distance(seen, seen_contents[one])
                taken = style_distances(seen, seen_styles[other])
                rows.append(dict(zip(MEASURES, (*kept, *taken.values()), strict=True)))
            means = {name: statistics.mean(row[name] for row in rows) for name in MEASURES}
            table.setdefault(method, {})[setting] = means
            values = [*means.values(), *pair(means, table[NOTHING][0.0])]
            print(
                f"| {method} | {setting:g} | " + " | ".join(f"{value:.3f}" for value in values) + " |",
                flush=True,
            )
    return table


def pair(means: dict[str, float], nothing: dict[str, float]) -> tuple[float, float]:
    """(content lost, style missing): 1 - SSIM with the eye's distance; the three distances, those of the content 1."""
    missing = statistics.mean(means[name] / nothing[name] for name in ("gram", "moments", "colours"))
    return statistics.mean((1 - means["similarity"], means["content"])), missing


def dominates(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> int:
    """How many settings of the other method have both measures beaten; at strength 0 ours is the content itself."""
    ours = [(0.0, 1.0), *sorted(ours)]
    beaten = 0
    for lost, missing in theirs:
        points = [p for p in ours if p[0] <= lost]
        after = [p for p in ours if p[0] > lost]
        best = min((p[1] for p in points), default=float("inf"))
        if points and after:
            (x0, y0), (x1, y1) = points[-1], after[0]
            best = min(best, y0 + (y1 - y0) * (lost - x0) / (x1 - x0))
        beaten += best < missing
    return beaten


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder for the plot and the sheet")
    parser.add_argument("--every", type=int, default=1, help="take every nth pair only")
    arguments = parser.parse_args()
    easel = StableDiffusion.load("tiny")
    columns = ("SSIM", "eye's distance", "Gram", "mean and deviation", "colours", "content lost", "style missing")
    print(f"| method | setting | {' | '.join(columns)} |\n{'|---' * (len(columns) + 2)}|")
    table = measure(easel, arguments.every)
    nothing = table.pop(NOTHING)[0.0]
    curves = {name: [pair(means, nothing) for means in settings.values()] for name, settings in table.items()}
    for ours in (INJECTION, STYLEID):
        for name in (IMAGE, ADAIN, ADAIN_DETAILED):
            print(f"- {ours} dominates {dominates(curves[ours], curves[name])} of {len(curves[name])} of {name}")
    if arguments.pictures:
        labels = {name: [f"{setting:g}" for setting in settings] for name, settings in table.items()}
        save_image(pareto(curves, labels), arguments.pictures / "style-pareto.png")
        save_image(_sheet(easel), arguments.pictures / "style.png")


def _sheet(easel: StableDiffusion) -> Image.Image:
    """Photographs in the style of others, as the bundled painter does it: larger than what it was trained on."""
    side, inversions = 112, Inversions()
    ours = [photograph(name, side) for name in ("chelsea.png", "coffee.png", "china.jpg")]
    theirs = [photograph(name, side) for name in ("flower.jpg", "hubble_deep_field.jpg", "ihc.png")]
    rows: list[list[Image.Image | None]] = [[None, *theirs]]
    for content in ours:
        made = (easel.stylize(content, style, steps=20, inversions=inversions).image for style in theirs)
        rows.append([content, *made])
    return sheet(rows)


if __name__ == "__main__":
    main()
