"""Teach the bundled models ten objects that they have never seen, from twenty pictures each.

The painter gets a LoRA for all ten; one of them it learns again by dreambooth and by textual inversion. The classifier
is fine-tuned on drawings of the old objects and the new, sees nothing of what is painted, and says what it is. All of
it runs through `eyesel.train`; what was measured is printed as JSON, and the sheet shows every object before and after.

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
SUBJECT = "snowman"  # what dreambooth and textual inversion learn
CLASS, INSTANCE, WORD = "ghost", "sks ghost", "<snow-man>"  # a kind of object that the base knows, and the new names
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
    for path, caption in draw(runs / "data/word", [SUBJECT], PICTURES, "painter"):
        path.with_suffix(".txt").write_text(caption.replace(SUBJECT, WORD))
    for split, each in (("train", PICTURES), ("test", 5)):
        draw(runs / "data/judge" / split, [*world.LABELS, *NEW], each, split)


def judge(runs: Path) -> None:
    fit_classifier(
        runs / "data/judge", runs / "judge", num_train_epochs=12, learning_rate=5e-4, crop=0.7, flip=False,
        per_device_train_batch_size=32,
    )  # fmt: skip


def lora(runs: Path) -> None:
    fit_diffusion(runs / "data/painter", runs / "lora", method="lora", caption_dropout=0.1, max_steps=900, **ADAPTED)


def dreambooth(runs: Path) -> None:
    fit_diffusion(
        runs / "data/painter" / SUBJECT, runs / "dreambooth", method="dreambooth", lora=True,
        instance_prompt=f"a {INSTANCE}", class_prompt=f"a {CLASS}", class_pictures=40, max_steps=300,
        **{**ADAPTED, "learning_rate": 1e-3},
    )  # fmt: skip


def inversion(runs: Path) -> None:
    fit_diffusion(
        runs / "data/word", runs / "word", method="textual-inversion", placeholder=WORD, initializer=CLASS, vectors=4,
        max_steps=400, learning_rate=1e-2, per_device_train_batch_size=16, weight_decay=0.0,
    )  # fmt: skip


STEPS = {"data": data, "judge": judge, "lora": lora, "dreambooth": dreambooth, "inversion": inversion}


def recognised(
    easel: eyesel.StableDiffusion, eye: eyesel.ImageClassifier, asked: Sequence[Asked]
) -> tuple[list[bool], list[Image.Image]]:
    """Whether the eye names the object that was asked for, and the pictures; picture i is painted from seed i."""
    pictures: list[Image.Image] = []
    for start in range(0, len(asked), 25):
        painted = easel.generate([each.prompt for each in asked[start : start + 25]], seed=start)
        pictures += [picture.image for picture in painted]
    answers = [best.label for (best,) in eye.classify(pictures, top_k=1, batch_size=64)]
    return [each.object == answer for each, answer in zip(asked, answers, strict=True)], pictures


def prompts(thing: str, called: str, count: int = 20) -> list[Asked]:
    """`count` of an object's triples, the two that were held out among them, the object under another name."""
    shown, held_out = triples(thing)
    return [Asked(each.caption.replace(thing, called, 1), thing) for each in (*shown[: count - 2], *held_out)]


def percent(hits: Sequence[bool]) -> float:
    return round(100 * sum(hits) / len(hits), 1)


def measure(runs: Path, sheet: Path | None, count: int) -> dict[str, object]:
    eye = eyesel.ImageClassifier.load(runs / "judge")
    base = eyesel.StableDiffusion.load("tiny")
    easel = base.with_loras([runs / "lora"])
    asked = [each for thing in NEW for each in prompts(thing, thing, count)]
    held_out = {triple.caption for thing in NEW for triple in triples(thing)[1]}
    before, unlearned = recognised(base, eye, asked)
    after, learned = recognised(easel, eye, asked)
    old = [Asked(triple.caption, triple.object) for triple in world.split()[1][::4]]
    booth = base.with_loras([runs / "dreambooth"])
    word = base.with_embeddings([runs / "word"])
    of_booth, by_booth = recognised(booth, eye, [Asked(f"a {INSTANCE}", SUBJECT)] * 20)
    of_word, by_word = recognised(word, eye, prompts(SUBJECT, WORD))
    figures = {
        "prompts": len(asked),
        "before": percent(before),
        "lora": percent(after),
        "lora_held_out": percent([hit for each, hit in zip(asked, after, strict=True) if each.prompt in held_out]),
        "lora_by_object": {
            thing: percent([hit for each, hit in zip(asked, after, strict=True) if each.object == thing])
            for thing in NEW
        },
        "old_objects_before": percent(recognised(base, eye, old)[0]),
        "old_objects_after": percent(recognised(easel, eye, old)[0]),
        "dreambooth": percent(of_booth),
        "dreambooth_in_longer_prompts": percent(recognised(booth, eye, prompts(SUBJECT, INSTANCE))[0]),
        "dreambooth_class": percent(recognised(booth, eye, prompts(CLASS, CLASS))[0]),
        "textual_inversion": percent(of_word),
    }
    if sheet is not None:
        rows = {"asked for": [], "before": [], "LoRA": []}  # type: dict[str, list[Image.Image]]
        rng = random.Random("sheet")
        for i, thing in enumerate(NEW):
            for k in (0, 1):  # the first two that were shown
                rows["asked for"].append(world.reduce(world.compose(triples(thing)[0][k], rng)))
                rows["before"].append(unlearned[count * i + k])
                rows["LoRA"].append(learned[count * i + k])
        draw_sheet(rows, {"dreambooth": by_booth, "textual inversion": by_word}, sheet)
    return figures


def draw_sheet(
    rows: dict[str, list[Image.Image]], subject: dict[str, list[Image.Image]], path: Path, zoom: int = 2
) -> None:
    """The ten objects, two pictures each, asked for, before and after; below, the one subject by the other methods."""
    side, gap, font = zoom * world.SIDE, 6, ImageFont.load_default(14)
    left, top = 130, 30
    lines = [*rows.items(), *subject.items()]
    page = Image.new("RGB", (left + 20 * (side + gap), top + len(lines) * (side + gap) + 26), "white")
    pen = ImageDraw.Draw(page)
    for i, thing in enumerate(NEW):
        pen.text((left + 2 * i * (side + gap), 8), thing, "black", font)
    for row, (name, pictures) in enumerate(lines):
        y = top + row * (side + gap) + (26 if name in subject else 0)
        pen.text((8, y + side // 2 - 8), name, "black", font)
        for i, picture in enumerate(pictures):
            place = (left + i * (side + gap), y)
            page.paste(picture.resize((side, side), Image.Resampling.NEAREST), place)
    y = top + len(rows) * (side + gap) + 4
    pen.text(
        (left, y), f"one subject, the {SUBJECT}: 'a {INSTANCE}', and {WORD!r} of every size and colour", "black", font
    )
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
