"""What was found, as pictures: contact sheets, and a map on which thumbnails lie."""

import colorsys
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from eyesel.errors import ImageError, OutputError
from eyesel.images import open_image, save_image, written_whole
from eyesel.search.clusters import Clusters
from eyesel.search.index import Row
from eyesel.taps.sheet import sheet

THUMBNAIL = 96  # pixels of the longer side
GREY = (190, 190, 190)
MOST_ON_SHEET = 64  # pictures of a cluster that its sheet shows


def thumbnail(path: str | Path, side: int = THUMBNAIL) -> Image.Image:
    """A small version; a grey square in place of a file that is gone or cannot be read."""
    try:
        picture = open_image(path)
    except ImageError:
        return Image.new("RGB", (side, side), GREY)
    picture.thumbnail((side, side))
    return picture


def contact_sheet(entries: Sequence[tuple[str, str | Path]], across: int = 8, side: int = THUMBNAIL) -> Image.Image:
    """(title, path) of each picture, `across` in a row."""
    tiles = [(title, thumbnail(path, side)) for title, path in entries]
    return sheet([tiles[start : start + across] for start in range(0, len(tiles), across)], side)


def map_of(
    paths: Sequence[str | Path], places: np.ndarray, labels: np.ndarray, side: int = 1200, small: int = 36
) -> Image.Image:
    """Thumbnails of `small` pixels at `places` (B, 2) from 0 to 1, framed in the colour of their cluster."""
    page = Image.new("RGB", (side, side), "white")
    draw, frame = ImageDraw.Draw(page), max(2, small // 14)
    for path, (x, y), label in zip(paths, places, labels, strict=True):
        picture = thumbnail(path, small)
        left, top = (round(frame + share * (side - small - 2 * frame)) for share in (x, y))
        box = (left - frame, top - frame, left + picture.width + frame - 1, top + picture.height + frame - 1)
        draw.rectangle(box, _colour(int(label)))
        page.paste(picture, (left, top))
    return page


def _colour(label: int) -> tuple[int, int, int]:
    """Neighbouring numbers get colours far apart; what belongs to no cluster is grey."""
    if label < 0:
        return GREY
    shade = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.85, 0.6 + 0.35 * (label % 2))
    return (round(255 * shade[0]), round(255 * shade[1]), round(255 * shade[2]))


def write_clusters(folder: Path, rows: Sequence[Row], found: Clusters, places: np.ndarray) -> dict[str, Any]:
    """Write `map.png`, a sheet `cluster-00.png` of each cluster (`noise.png` of what is in none) and `clusters.json`
    into a folder, in place of those of an earlier time; gives what is in the last.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in [*folder.glob("cluster-*.png"), folder / "noise.png"]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}): choose another place.") from None
    save_image(map_of([row.path for row in rows], places, found.labels), folder / "map.png")
    clusters = []
    for number in sorted({int(label) for label in found.labels}, key=lambda label: (label < 0, label)):
        members = [row for row, label in zip(rows, found.labels, strict=True) if label == number]
        name = "noise.png" if number < 0 else f"cluster-{number:02d}.png"
        shown = [(row.label or Path(row.path).stem, row.path) for row in members[:MOST_ON_SHEET]]
        save_image(contact_sheet(shown), folder / name)
        common = Counter(row.label for row in members if row.label is not None).most_common(5)
        labels = {label: count / len(members) for label, count in common}
        clusters.append({"sheet": name, "size": len(members), "labels": labels, "files": [row.path for row in members]})
    facts = {"map": "map.png", "silhouettes": found.silhouettes, "clusters": clusters}
    with written_whole(folder / "clusters.json") as trial:
        trial.write_text(json.dumps(facts, indent=2), encoding="utf-8")
    return facts
