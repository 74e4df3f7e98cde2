"""Pictures of what the base is not to forget (Ruiz et al. 2023): painted by itself, or a folder with captions.

The folder is what kohya's sd-scripts call regularisation pictures.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

from eyesel.errors import OutputError, SettingError
from eyesel.images import find_images
from eyesel.stable_diffusion import StableDiffusion
from eyesel.train.diffusion.captions import Sample, read_samples
from eyesel.train.diffusion.settings import Settings
from eyesel.train.folders import holds_pictures


def check_apart(data: str | Path, output: str | Path, settings: Settings) -> None:
    """What the base paints into `class_data`, or a run into its output, does not become data by the way."""
    if settings.class_data is None:
        return
    kept, own = (Path(each).expanduser().resolve() for each in (settings.class_data, data))
    if kept.is_relative_to(own) or own.is_relative_to(kept):
        raise SettingError(
            f"class_data {settings.class_data} and the pictures in {data} are one folder, or one lies in the other: "
            "keep them apart."
        )
    if Path(output).expanduser().resolve().is_relative_to(kept):
        raise OutputError(f"{output} lies among the pictures of {settings.class_data}: choose a place outside.")


def captioned_samples(settings: Settings) -> tuple[list[Sample], list[str]]:
    """The pictures of `class_data` under captions of their own, where there is no one prompt for all; and notes."""
    if settings.class_data is None or settings.class_prompt:
        return [], []
    samples, notes = read_samples(
        settings.class_data, settings.caption_column, strict=settings.strict, setting="class_prompt"
    )
    return [replace(sample, prior=True) for sample in samples], notes


def class_samples(painter: StableDiffusion, folder: Path, prompt: str, count: int, side: int) -> list[Sample]:
    """`count` pictures of `folder`; those that are missing are painted by the base, number i from seed i."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = find_images(folder) if holds_pictures(folder) else []
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be made ({error.strerror}): choose another.") from None
    missing = [i for i in range(count) if not (folder / _name(i)).is_file()][: max(count - len(there), 0)]
    if missing:
        print(f"eyesel: note: the base paints {len(missing)} pictures of {prompt!r} into {folder}", file=sys.stderr)
    for i in missing:
        painter.generate(prompt, seed=i, size=(side, side)).save(folder / _name(i))
    return [Sample(path, prompt, prior=True) for path in find_images(folder)[:count]]


def _name(number: int) -> str:
    return f"class-{number:05d}.png"


def balanced(instances: Sequence[Sample], prior: Sequence[Sample]) -> list[Sample]:
    """As many of the one as of the other: the fewer are repeated, as in kohya's sd-scripts."""
    count = max(len(instances), len(prior))
    return [*islice(cycle(instances), count), *islice(cycle(prior), count)]
