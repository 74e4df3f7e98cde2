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
from eyesel.search.clusters import MOST_ON_MAP, Clusters
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


def map_of(paths: Sequence[str | Path], places: np.ndarray, labels: np.ndarray, cell: int = 30) -> Image.Image:
    """Thumbnails framed in the colour of their cluster, each in the free cell nearest to its place.

    `places` (B, 2) are from 0 to 1. None lies on another: of the page's cells, `cell` pixels wide, half stay empty.
    """
    across = int(np.ceil(np.sqrt(2 * len(paths))))
    page = Image.new("RGB", (across * cell, across * cell), "white")
    draw, frame = ImageDraw.Draw(page), 2
    for path, (x, y), label in zip(paths, _cells(places, across) * cell, labels, strict=True):
        picture = thumbnail(path, cell - 2 * frame - 1).resize((cell - 2 * frame - 1,) * 2)
        draw.rectangle((x, y, x + cell - 2, y + cell - 2), _colour(int(label)))
        page.paste(picture, (x + frame, y + frame))
    return page


def _cells(places: np.ndarray, across: int) -> np.ndarray:
    """A cell (column, row) of its own for each place (B, 2): the nearest that is free, those in the middle first."""
    grid = np.stack(np.meshgrid(np.arange(across), np.arange(across)), -1).reshape(-1, 2)  # (cells, 2)
    free, chosen = np.ones(len(grid), bool), np.empty(places.shape, int)
    wanted = places * (across - 1)
    for i in np.argsort(np.square(places - 0.5).sum(1), kind="stable"):
        best = np.where(free, np.square(grid - wanted[i]).sum(1), np.inf).argmin()
        free[best] = False
        chosen[i] = grid[best]
    return chosen


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
    shown = np.linspace(0, len(rows) - 1, min(len(rows), MOST_ON_MAP)).astype(int)
    save_image(map_of([rows[i].path for i in shown], places[shown], found.labels[shown]), folder / "map.png")
    clusters = []
    for number in sorted({int(label) for label in found.labels}, key=lambda label: (label < 0, label)):
        members = [row for row, label in zip(rows, found.labels, strict=True) if label == number]
        name = "noise.png" if number < 0 else f"cluster-{number:02d}.png"
        titled = [(row.label or Path(row.path).stem, row.path) for row in members[:MOST_ON_SHEET]]
        save_image(contact_sheet(titled), folder / name)
        common = Counter(row.label for row in members if row.label is not None).most_common(5)
        labels = {label: count / len(members) for label, count in common}
        clusters.append({"sheet": name, "size": len(members), "labels": labels, "files": [row.path for row in members]})
    facts = {"map": "map.png", "silhouettes": found.silhouettes, "clusters": clusters}
    with written_whole(folder / "clusters.json") as trial:
        trial.write_text(json.dumps(facts, indent=2), encoding="utf-8")
    return facts
