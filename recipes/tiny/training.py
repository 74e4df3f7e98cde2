"""What the training scripts share: their options, and the tiny world as a folder for eyesel's commands."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import world
from PIL import Image


def arguments(purpose: str, rate: float, threads: int) -> argparse.ArgumentParser:
    """The options of all training scripts."""
    parser = argparse.ArgumentParser(description=purpose, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoints and the finished model")
    parser.add_argument("--rate", type=float, default=rate, help="learning rate")
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=24, help="pictures drawn of every training triple")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    return parser


def command_arguments(purpose: str, steps: int, rate: float, threads: int) -> argparse.ArgumentParser:
    """Those of the scripts that train as eyesel's commands do."""
    parser = arguments(purpose, rate, threads)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument(
        "--prepare", action="store_true", help="only write the untrained network and its pictures, beside --output"
    )
    return parser


def make_once(folder: Path, make: Callable[[Path], None], **how: object) -> None:
    """See that `folder` is as `make` fills it, which is asked to if there is none, and that it was made as `how` says.

    A folder that is there is whole: it gets its name last.
    """
    record = "made.json"
    if folder.exists():
        if json.loads((folder / record).read_text()) != how:
            raise SystemExit(f"{folder} was not made with {json.dumps(how)}: remove it, or choose another --output")
        return
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    make(unfinished)
    (unfinished / record).write_text(json.dumps(how) + "\n")
    unfinished.rename(folder)


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
