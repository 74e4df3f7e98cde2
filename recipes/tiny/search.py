"""Measure what embeddings of the tiny classifier are good for, on compositions that were held out of training.

Prints the figures as JSON: how well pictures of a family of objects that the good ones lack are told apart (AUROC of
`eyesel index outliers`), whether neighbours show the same object, copies found that were saved again, and
the clusters. With --folder the pictures are kept, labelled by their folders; with --map the map of docs/index.md is
drawn.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

import numpy as np
import world
from PIL import Image
from sklearn.metrics import adjusted_rand_score

import eyesel
from eyesel.search.build import build
from eyesel.search.clusters import hdbscan, kmeans, places
from eyesel.search.distances import nearest, unit
from eyesel.search.duplicates import duplicates
from eyesel.search.identity import identity_of
from eyesel.search.index import Index
from eyesel.search.outliers import anomaly, auroc
from eyesel.search.pictures import map_of

# the rows of world.GLYPHS
FAMILIES = {"animals": (0, 26), "food": (26, 46), "plants": (46, 54), "vehicles": (54, 60), "faces": (60, 64)}
SIDE = 128  # pixels of the pictures


def draw_folder(folder: Path, each: int, seed: int = 0) -> None:
    """`each` pictures of every held-out triple, as <object>/<size>-<colour>-<number>.png."""
    rng = random.Random(f"search {seed}")
    for triple in world.split()[1]:
        (folder / triple.object).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            picture = world.compose(triple, rng).resize((SIDE, SIDE), Image.Resampling.BOX)
            picture.save(folder / triple.object / f"{triple.size}-{triple.colour}-{i}.png")


def families() -> dict[str, set[str]]:
    names = list(world.OBJECTS)
    return {family: set(names[start:end]) for family, (start, end) in FAMILIES.items()}


def held_out(vectors: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict[str, float]:
    """AUROC of each family: half of the other pictures are good, the rest and all of the family are judged."""
    half = np.random.default_rng(seed).random(len(labels)) < 0.5
    scores = {}
    for family, names in families().items():
        odd = np.isin(labels, sorted(names))
        judged = ~half | odd
        scores[family] = round(auroc(anomaly(vectors[~judged], vectors[judged]), odd[judged]), 4)
    return scores


def saved_again(eye: eyesel.ImageClassifier, index: Index, folder: Path, count: int = 100) -> dict[str, float]:
    """The share of pictures whose copy, a JPEG of three quarters of the size, is found beside it, by threshold."""
    rows, _ = index.all()
    copies = {}
    for row in rows[:: len(rows) // count][:count]:
        copy = folder / row.label / f"{Path(row.path).stem}-again.jpg"
        Image.open(row.path).resize((SIDE * 3 // 4,) * 2).save(copy, quality=80)
        copies[row.path] = str(copy)
    build(index, eye, folder, batch_size=64)
    rows, vectors = index.all()
    found = {}
    for threshold in (0.98, 0.99, 0.995, 0.999):
        groups = [{rows[i].path for i in group.rows} for group in duplicates(rows, vectors, threshold)]
        share = sum(any({path, copy} <= group for group in groups) for path, copy in copies.items()) / len(copies)
        found[str(threshold)] = {"copies found": share, "groups": len(groups)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--each", type=int, default=6, help="pictures of each of the 128 held-out combinations")
    parser.add_argument("--folder", type=Path, help="where the pictures are drawn; default: a temporary folder")
    parser.add_argument("--map", type=Path, help="also draw the map of docs/index.md")
    options = parser.parse_args()
    eye = eyesel.ImageClassifier.load("tiny")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "world"
        draw_folder(folder, options.each)
        index = Index.create(Path(temporary) / "db", identity_of(eye))
        build(index, eye, folder, batch_size=64)
        rows, vectors = index.all()
        labels = np.array([row.label for row in rows])
        units = unit(vectors)
        near = nearest(units, units, 5, without_itself=True)[0]
        found, dense = kmeans(vectors), hdbscan(vectors)
        flat = places(vectors)
        if options.map:
            map_of([row.path for row in rows], flat, found.labels).quantize(128).save(options.map, optimize=True)
        figures = {
            "pictures": len(rows),
            "auroc of a family held out": held_out(vectors, labels),
            "of five neighbours show the same object": round(float((labels[near] == labels[:, None]).mean()), 4),
            "k-means": {"clusters": found.count, "adjusted Rand": round(adjusted_rand_score(labels, found.labels), 4)},
            "hdbscan": {
                "clusters": dense.count,
                "in none": int((dense.labels < 0).sum()),
                "adjusted Rand": round(adjusted_rand_score(labels, dense.labels), 4),
            },
            "saved again": saved_again(eye, index, folder),
        }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
