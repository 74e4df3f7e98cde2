"""An index of embeddings beside brute force in NumPy: recall of ten neighbours, time a query, pictures a second."""

import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Row, main, paired
from eyesel.classifier import ImageClassifier
from eyesel.search.build import build
from eyesel.search.distances import nearest, unit
from eyesel.search.identity import Identity, identity_of
from eyesel.search.index import Index
from eyesel.search.index import Row as Picture

COUNT, DIM, CENTRES, QUERIES = 50_000, 128, 500, 50
PICTURES, SIDE = 512, 128


def vectors() -> np.ndarray:
    """(COUNT, DIM) around random centres, as embeddings lie around classes."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CENTRES, DIM))
    return (centres[rng.integers(0, CENTRES, COUNT)] + 0.7 * rng.normal(size=(COUNT, DIM))).astype(np.float32)


def run(scratch: Path, repeats: int) -> list[Row]:
    return [*searching(scratch / "vectors.db", repeats), *building(scratch)]


def searching(db: Path, repeats: int) -> list[Row]:
    shutil.rmtree(db, ignore_errors=True)
    data = vectors()
    units, queries = unit(data), data[:: COUNT // QUERIES][:QUERIES]
    true = nearest(unit(queries), units, 10)[0]
    index = Index.create(db, Identity("random vectors", "0" * 16, "cls", 1, 1, DIM))
    index.put([Picture(f"{i:06d}", 0, 0, f"{i:064x}", None, 1, 1) for i in range(COUNT)], data)
    index.tidy()
    index.approximate()

    def hits(exact: bool) -> list[set[int]]:
        return [{int(hit.path) for hit in index.search(query, 10, exact=exact)} for query in queries]

    recalls = {
        exact: np.mean([len(some & set(row)) / 10 for some, row in zip(hits(exact), true.tolist(), strict=True)])
        for exact in (True, False)
    }
    took = paired(
        {
            "NumPy, brute force": lambda: [nearest(unit(query[None]), units, 10) for query in queries],
            "eyesel index, exact": partial(hits, True),
            "eyesel index, IVF (over 100,000 pictures its default)": partial(hits, False),
        },
        repeats,
    )
    question = f"ten nearest of {COUNT:,} vectors of {DIM}"
    recall = dict(zip(took, (1.0, recalls[True], recalls[False]), strict=True))
    return [
        Row(question, name, f"{1000 * s / QUERIES:.1f} ms a query, recall {recall[name]:.3f}")
        for name, s in took.items()
    ]


def building(scratch: Path) -> list[Row]:
    folder, db = scratch / "pictures", scratch / "pictures.db"
    for path in (folder, db):
        shutil.rmtree(path, ignore_errors=True)
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{i:04d}.jpg")
    eye = ImageClassifier.load("tiny")
    index = Index.create(db, identity_of(eye))
    rates = {}
    for what, change in (
        ("new pictures", lambda: None),
        ("nothing new", lambda: None),
        ("all moved", lambda: folder.rename(scratch / "moved")),
    ):
        change()
        start = time.perf_counter()
        build(index, eye, folder if folder.is_dir() else scratch / "moved", batch_size=32)
        rates[what] = PICTURES / (time.perf_counter() - start)
    shutil.rmtree(scratch / "moved")
    question = f"eyesel index build, {PICTURES} JPEGs of {SIDE}x{SIDE}, tiny"
    return [Row(question, what, f"{rate:,.0f} pictures/s") for what, rate in rates.items()]


if __name__ == "__main__":
    main({"search": run}, __doc__)
