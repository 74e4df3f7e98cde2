"""What the scripts share that train by eyesel's commands: their options, and the tiny world as a folder."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import world
from PIL import Image


def arguments(purpose: str, steps: int, rate: float, threads: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=purpose, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the run; its data lie beside it")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--rate", type=float, default=rate, help="learning rate")
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=24, help="pictures drawn of every training triple")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    return parser


def write_pictures(
    folder: Path,
    triples: list[world.Triple],
    each: int,
    seed: int,
    wording: Callable[[world.Triple], str] | None = None,
) -> None:
    """`each` drawings of every triple in class folders; with `wording`, what they show in metadata.jsonl."""
    rows = []
    for number, (triple, pictures) in enumerate(zip(triples, world.draw(triples, each, seed), strict=True)):
        (folder / triple.object).mkdir(parents=True, exist_ok=True)
        for i, pixels in enumerate(pictures):
            name = f"{triple.object}/{number:04d}-{i:02d}.png"
            Image.fromarray(pixels).save(folder / name)
            if wording is not None:
                rows.append({"file_name": name, "text": wording(triple)})
    if rows:
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
