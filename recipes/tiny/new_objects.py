"""Teach the bundled models ten objects that they have never seen, from twenty pictures each.

The painter gets a LoRA, one object more by dreambooth and one by textual inversion; the classifier is fine-tuned on
drawings of the old objects and the new, sees none of what is painted, and says what it is. Everything goes through
`eyesel.train`. Steps: data, judge, lora, dreambooth, inversion, measure.
"""

import json
import random
from pathlib import Path

import world
from PIL import Image
from world import Triple

import eyesel
from eyesel.train import fit_classifier, fit_diffusion

NEW = {
    "snowman": "⛄", "unicorn": "🦄", "balloon": "🎈", "guitar": "🎸", "gift": "🎁",
    "crown": "👑", "bell": "🔔", "key": "🔑", "trophy": "🏆", "hedgehog": "🦔",
}  # fmt: skip
SUBJECT, WORD = "snowman", "<snow-man>"  # what dreambooth and textual inversion learn, and what the latter calls it
PICTURES = 20  # of each object
world.OBJECTS |= NEW


def triples(thing: str, seed: str) -> tuple[list[Triple], list[Triple]]:
    """(training, held-out) of an object, as in `world.split`: two of its twenty are never shown."""
    every = [Triple(size, thing, colour) for size in world.SIZES for colour in world.COLOURS]
    random.Random(f"{seed} {thing}").shuffle(every)
    return every[2:], every[:2]


def draw(folder: Path, things: list[str], each: int, seed: str, captions: bool = False) -> None:
    """`each` drawings of every object, in class folders; with captions also metadata.jsonl."""
    rows = []
    for thing in things:
        rng = random.Random(f"{seed} {thing}")
        (folder / thing).mkdir(parents=True, exist_ok=True)
        shown = triples(thing, "new objects")[0]
        for i in range(each):
            triple = shown[i % len(shown)]
            name = f"{thing}/{i:03d}.png"
            world.reduce(world.compose(triple, rng)).save(folder / name)
            rows.append({"file_name": name, "text": triple.caption})
    if captions:
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_data(runs: Path) -> None:
    draw(runs / "data/painter", list(NEW), PICTURES, "painter", captions=True)
    draw(runs / "data/judge/train", [*world.LABELS, *NEW], PICTURES, "judge")
    draw(runs / "data/judge/test", [*world.LABELS, *NEW], 5, "test")
    subject = runs / "data/subject"
    subject.mkdir(parents=True, exist_ok=True)
    for path in sorted((runs / "data/painter" / SUBJECT).glob("*.png")):
        (subject / path.name).write_bytes(path.read_bytes())


def train_judge(runs: Path) -> None:
    fit_classifier(
        runs / "data/judge", runs / "judge", num_train_epochs=15, learning_rate=5e-4, crop=0.7, flip=False,
        per_device_train_batch_size=32, force=True,
    )  # fmt: skip


def train_lora(runs: Path, steps: int, **others) -> None:
    settings = {
        "rank": 16, "targets": "all", "train_text_encoder": True, "caption_dropout": 0.1, "learning_rate": 2e-3,
        "per_device_train_batch_size": 16, "lr_scheduler_type": "cosine", "warmup_steps": 50, "logging_steps": 50,
        "validation_prompt": [f"a large {thing} on a blue background" for thing in list(NEW)[:6]],
    }  # fmt: skip
    fit_diffusion(runs / "data/painter", runs / "lora", max_steps=steps, force=True, **settings | others)


def recognised(
    easel: eyesel.StableDiffusion, eye: eyesel.ImageClassifier, asked: list[tuple[str, str]]
) -> tuple[list[bool], list[Image.Image]]:
    """Whether the eye names what was asked for, (prompt, object) by (prompt, object), and the pictures."""
    pictures = []
    for start in range(0, len(asked), 25):
        prompts = [prompt for prompt, _ in asked[start : start + 25]]
        pictures += [picture.image for picture in easel.generate(prompts, seed=start)]
    answers = [best.label for (best,) in eye.classify(pictures, top_k=1, batch_size=64)]
    return [thing == answer for (_, thing), answer in zip(asked, answers, strict=True)], pictures
