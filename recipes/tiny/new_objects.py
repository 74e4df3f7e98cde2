"""Teach the bundled models ten objects that they have never seen, from twenty pictures each.

The painter gets a LoRA for all ten, beside pictures of the old objects that it paints itself, so that it keeps them.
Dreambooth teaches it one of the ten again, and so does textual inversion. The classifier is fine-tuned on drawings of
the old objects and the new, sees nothing of what is painted, and says what it is. All of it runs through
`eyesel.train`; what was measured is printed as JSON, and the sheet shows every object before and after.

The word of the textual inversion is the balloon, of the ten the one that the painter as it is comes nearest to. Its two
vectors stand where captions have an article less ("large <balloon> on a red background"): the painter was trained with
colours at one place of the text only.

    python recipes/tiny/new_objects.py --runs .runs/new --sheet docs/training.png
    python recipes/tiny/new_objects.py --runs .runs/new lora measure        # or some of its steps
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import world
from PIL import Image, ImageDraw, ImageFont
from world import Triple

import eyesel
from eyesel.train import fit_classifier, fit_diffusion

NEW = {
    "snowman": "⛄", "unicorn": "🦄", "balloon": "🎈", "guitar": "🎸", "gift": "🎁",
    "crown": "👑", "bell": "🔔", "key": "🔑", "trophy": "🏆", "hedgehog": "🦔",
}  # fmt: skip
PICTURES = 20  # of each object
ROUNDS = 5  # of twenty pictures, in which dreambooth and textual inversion are judged
KEPT = 4  # of each old object, painted by the base
SUBJECT, CLASS, INSTANCE = "snowman", "ghost", "sks ghost"  # of dreambooth: a kind that the base knows, and a new name
MEANT, WORD, NEAR = "balloon", "<balloon>", "lollipop"  # of textual inversion: the new word, and one to begin from
GUIDANCE = 2.0  # that the new word is painted with; the usual is 3
world.OBJECTS |= NEW

ADAPTED = {
    "rank": 16, "targets": "all", "train_text_encoder": True, "learning_rate": 2e-3, "weight_decay": 0.0,
    "per_device_train_batch_size": 16, "lr_scheduler_type": "cosine", "logging_steps": 50, "save_steps": 100,
}  # fmt: skip


class Asked(NamedTuple):
    prompt: str
    object: str


def triples(thing: str) -> tuple[list[Triple], list[Triple]]:
    """(training, held-out) of an object, as in `world.split`: two of its twenty are never shown."""
    every = [Triple(size, thing, colour) for size in world.SIZES for colour in world.COLOURS]
    random.Random(f"new objects {thing}").shuffle(every)
    return every[2:], every[:2]


def draw(folder: Path, things: Sequence[str], each: int, seed: str) -> list[tuple[Path, str]]:
    """`each` drawings of every object in class folders, with what they show."""
    drawn = []
    for thing in things:
        rng, shown = random.Random(f"{seed} {thing}"), triples(thing)[0]
        (folder / thing).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            triple = shown[i % len(shown)]
            path = folder / thing / f"{i:03d}.png"
            world.reduce(world.compose(triple, rng)).save(path)
            drawn.append((path, triple.caption))
    return drawn


def data(runs: Path) -> None:
    painter = runs / "data/painter"
    rows = [
        {"file_name": str(path.relative_to(painter)), "text": caption}
        for path, caption in draw(painter, list(NEW), PICTURES, "painter")
    ]
    (painter / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for i, (path, caption) in enumerate(draw(runs / "data/booth", [SUBJECT], PICTURES, "painter")):
        path.with_suffix(".txt").write_text(f"a {INSTANCE}" if i % 2 else caption.replace(SUBJECT, INSTANCE))
    for path, caption in draw(runs / "data/word", [MEANT], PICTURES, "painter"):
        path.with_suffix(".txt").write_text(worded(caption))
    for split, each in (("train", PICTURES), ("test", 5)):
        draw(runs / "data/judge" / split, [*world.LABELS, *NEW], each, split)


def worded(caption: str) -> str:
    return caption.removeprefix("a ").replace(MEANT, WORD)


def kept(runs: Path) -> None:
    """What the base is to keep, as it paints it: KEPT pictures of each old object, and for dreambooth many of one."""
    rng = random.Random("kept")
    shown: dict[str, list[str]] = {thing: [] for thing in world.LABELS}
    for triple in world.split()[0]:
        shown[triple.object].append(triple.caption)
    paint(
        runs / "data/kept", [caption for thing in world.LABELS for caption in rng.sample(shown[thing], KEPT)], 500_000
    )
    paint(runs / "data/class", 2 * shown[CLASS], 600_000)


def paint(folder: Path, captions: Sequence[str], seed: int) -> None:
    base = eyesel.StableDiffusion.load("tiny")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.jsonl").open("w") as file:
        for start in range(0, len(captions), 32):
            painted = base.generate(list(captions[start : start + 32]), seed=seed + start)
            for i, picture in enumerate(painted, start):
                picture.save(folder / f"{i:03d}.png")
                file.write(json.dumps({"file_name": f"{i:03d}.png", "text": captions[i]}) + "\n")


def judge(runs: Path) -> None:
    fit_classifier(
        runs / "data/judge", runs / "judge", num_train_epochs=12, learning_rate=5e-4, crop=0.7, flip=False,
        per_device_train_batch_size=32,
    )  # fmt: skip


def lora(runs: Path) -> None:
    fit_diffusion(
        runs / "data/painter", runs / "lora", method="lora", class_data=str(runs / "data/kept"), caption_dropout=0.1,
        max_steps=900, **{**ADAPTED, "per_device_train_batch_size": 24},
    )  # fmt: skip


def dreambooth(runs: Path) -> None:
    fit_diffusion(
        runs / "data/booth", runs / "dreambooth", method="dreambooth", lora=True, class_data=str(runs / "data/class"),
        max_steps=150, **ADAPTED,
    )  # fmt: skip


def inversion(runs: Path) -> None:
    fit_diffusion(
        runs / "data/word", runs / "word", method="textual-inversion", placeholder=WORD, initializer=NEAR, vectors=2,
        max_steps=200, learning_rate=3e-2, lr_scheduler_type="cosine", per_device_train_batch_size=16, weight_decay=0.0,
    )  # fmt: skip


STEPS = {"data": data, "kept": kept, "judge": judge, "lora": lora, "dreambooth": dreambooth, "inversion": inversion}


def recognised(
    easel: eyesel.StableDiffusion, eye: eyesel.ImageClassifier, asked: Sequence[Asked], **settings: float
) -> tuple[list[bool], list[Image.Image]]:
    """Whether the eye names the object that was asked for, and the pictures; picture i is painted from seed i."""
    pictures: list[Image.Image] = []
    for start in range(0, len(asked), 25):
        painted = easel.generate([each.prompt for each in asked[start : start + 25]], seed=start, **settings)
        pictures += [picture.image for picture in painted]
    answers = [best.label for (best,) in eye.classify(pictures, top_k=1, batch_size=64)]
    return [each.object == answer for each, answer in zip(asked, answers, strict=True)], pictures


def prompts(thing: str, called: str, count: int = 20) -> list[Asked]:
    """`count` of an object's triples, the two that were held out among them, the object under another name."""
    shown, held_out = triples(thing)
    return [Asked(each.caption.replace(thing, called, 1), thing) for each in (*shown[: count - 2], *held_out)]


def percent(hits: Sequence[bool]) -> float:
    return round(100 * sum(hits) / len(hits), 1)


class Measured(NamedTuple):
    figures: dict[str, object]
    titles: list[str]  # above every second picture
    rows: dict[str, list[Image.Image]]  # of the sheet, twenty pictures each


def of_lora(base: eyesel.StableDiffusion, eye: eyesel.ImageClassifier, run: Path, count: int) -> Measured:
    easel = base.with_loras([run])
    asked = [each for thing in NEW for each in prompts(thing, thing, count)]
    old = [Asked(triple.caption, triple.object) for triple in world.split()[1]]
    held_out = {triple.caption for thing in NEW for triple in triples(thing)[1]}
    before, unlearned = recognised(base, eye, asked)
    after, learned = recognised(easel, eye, asked)
    remembered, remaining = recognised(easel, eye, old)
    figures = {
        "prompts": len(asked),
        "before": percent(before),
        "lora": percent(after),
        "lora_held_out": percent([hit for each, hit in zip(asked, after, strict=True) if each.prompt in held_out]),
        "lora_by_object": {
            thing: percent([hit for each, hit in zip(asked, after, strict=True) if each.object == thing])
            for thing in NEW
        },
        "old_prompts": len(old),
        "old_objects_before": percent(recognised(base, eye, old)[0]),
        "old_objects_after": percent(remembered),
    }
    rng, first = random.Random("sheet"), [count * i + k for i in range(len(NEW)) for k in (0, 1)]
    rows = {
        "asked for": [world.reduce(world.compose(triples(thing)[0][k], rng)) for thing in NEW for k in (0, 1)],
        "before": [unlearned[i] for i in first],
        "LoRA": [learned[i] for i in first],
        "old, with LoRA": remaining[::6][:20],
    }
    return Measured(figures, list(NEW), rows)


def of_dreambooth(base: eyesel.StableDiffusion, eye: eyesel.ImageClassifier, run: Path, count: int) -> Measured:
    easel = base.with_loras([run])
    alone, short = recognised(easel, eye, [Asked(f"a {INSTANCE}", SUBJECT)] * 20 * ROUNDS)
    longer, long = recognised(easel, eye, prompts(SUBJECT, INSTANCE) * ROUNDS)
    figures = {
        "dreambooth": percent(alone),
        "dreambooth_in_longer_prompts": percent(longer),
        "dreambooth_class": percent(recognised(easel, eye, prompts(CLASS, CLASS) * ROUNDS)[0]),
    }
    title = f"the {SUBJECT} as 'a {INSTANCE}' (ten), and as '{prompts(SUBJECT, INSTANCE)[0].prompt}' and the like (ten)"
    return Measured(figures, [title], {"dreambooth": short[:10] + long[:10]})


def of_word(base: eyesel.StableDiffusion, eye: eyesel.ImageClassifier, run: Path, count: int) -> Measured:
    asked = [Asked(worded(each.prompt), MEANT) for each in prompts(MEANT, MEANT)]
    easel = base.with_embeddings([run])
    hits, pictures = recognised(easel, eye, asked * ROUNDS, guidance=GUIDANCE)
    usual = recognised(easel, eye, asked * ROUNDS)[0]
    title = f"the {MEANT} as '{asked[0].prompt}' and the like"
    figures = {"textual_inversion": percent(hits), "textual_inversion_at_the_usual_guidance": percent(usual)}
    return Measured(figures, [title], {"textual inversion": pictures[:20]})


def measure(runs: Path, sheet: Path | None, count: int) -> dict[str, object]:
    """Of those runs that are there."""
    eye, base = eyesel.ImageClassifier.load(runs / "judge"), eyesel.StableDiffusion.load("tiny")
    ways = {"lora": of_lora, "dreambooth": of_dreambooth, "word": of_word}
    measured = [way(base, eye, runs / name, count) for name, way in ways.items() if (runs / name).is_dir()]
    if sheet is not None:
        draw_sheet(measured, sheet)
    return {name: figure for each in measured for name, figure in each.figures.items()}


def draw_sheet(measured: Sequence[Measured], path: Path, zoom: int = 2) -> None:
    """A row a line, under the title of each part; twenty pictures across."""
    side, gap, head, font = zoom * world.SIDE, 6, 26, ImageFont.load_default(14)
    left = 130
    lines = sum(len(part.rows) for part in measured)
    page = Image.new("RGB", (left + 20 * (side + gap), len(measured) * head + lines * (side + gap)), "white")
    pen, y = ImageDraw.Draw(page), 0
    for part in measured:
        for i, title in enumerate(part.titles):
            pen.text((left + 2 * i * (side + gap), y + 6), title, "black", font)
        y += head
        for name, pictures in part.rows.items():
            pen.text((8, y + side // 2 - 8), name, "black", font)
            for i, picture in enumerate(pictures):
                page.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left + i * (side + gap), y))
            y += side + gap
    page.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", help=f"of {', '.join([*STEPS, 'measure'])}; default all")
    parser.add_argument("--runs", type=Path, default=Path(".runs/new"))
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--prompts", type=int, default=20, help="of each object, that are painted and judged")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for step in options.steps or [*STEPS, "measure"]:
        if step == "measure":
            print(json.dumps(measure(options.runs, options.sheet, options.prompts), indent=2))
        else:
            STEPS[step](options.runs)


if __name__ == "__main__":
    main()
