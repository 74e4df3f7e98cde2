"""Embeddings put to use, against brute force and against what the folder really holds."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from eyesel import ImageClassifier
from eyesel.errors import ImageError, SettingError
from eyesel.images.labels import folder_labels
from eyesel.search.build import build
from eyesel.search.clusters import hdbscan, kmeans, places
from eyesel.search.distances import nearest, unit
from eyesel.search.duplicates import duplicates
from eyesel.search.identity import identity_of
from eyesel.search.index import Index, Row
from eyesel.search.outliers import anomaly, auroc, auroc_by_label, spread
from eyesel.search.pictures import map_of
from tiny_models import write_classifier

SHEET = Path(__file__).parents[1] / "data" / "compositions.png"
VEHICLES = ("helicopter", "fire engine", "taxi", "bicycle", "locomotive", "rocket")


@pytest.fixture(scope="module")
def eye():
    return ImageClassifier.load("tiny")


@pytest.fixture(scope="module")
def compositions():
    """32 objects in pictures of 32x32, in the order of the sheet."""
    sheet = Image.open(SHEET)
    corners = [(x, y) for y in range(0, sheet.height, 32) for x in range(0, sheet.width, 32)]
    return [sheet.crop((x, y, x + 32, y + 32)).convert("RGB") for x, y in corners]


def variants(picture, count, seed):
    """The picture moved by a pixel or two, and lighter or darker."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        moved = np.roll(np.asarray(picture, float), rng.integers(-2, 3, 2), (0, 1))
        yield Image.fromarray((moved * rng.uniform(0.9, 1.0)).astype(np.uint8))


@pytest.fixture
def folder(tmp_path, compositions):
    """The first eight compositions, two in each folder and two above."""
    root = tmp_path / "pictures"
    for i, name in enumerate(["a/0.png", "a/1.png", "b/2.png", "b/3.png", "c/4.png", "c/5.png", "6.png", "7.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        compositions[i].save(root / name)
    return root


@pytest.fixture
def index(tmp_path, eye):
    return Index.create(tmp_path / "db", identity_of(eye))


def numbers(report):
    return {name: value for name, value in vars(report).items() if value}


def test_nearest_is_brute_force():
    vectors = unit(np.random.default_rng(0).normal(size=(2100, 12)))  # three blocks
    theirs = NearestNeighbors(n_neighbors=6, metric="cosine", algorithm="brute").fit(vectors)
    distances, found = theirs.kneighbors()  # each without itself
    ours, our_distances = nearest(vectors, vectors, 6, without_itself=True)
    assert (ours == found).mean() > 0.999 and np.abs(our_distances - distances).max() < 1e-5
    with pytest.raises(SettingError, match="2100 neighbours are asked for, and there are 2099"):
        nearest(vectors, vectors, 2100, without_itself=True)


def test_build_keeps_up_with_the_folder(index, eye, folder, compositions):
    assert numbers(build(index, eye, folder)) == {"added": 8}
    assert numbers(build(index, eye, folder)) == {"unchanged": 8}

    (folder / "a/0.png").rename(folder / "moved.png")
    shutil.copy(folder / "a/1.png", folder / "b/copy.png")
    compositions[20].save(folder / "b/2.png")
    (folder / "c/5.png").unlink()
    (folder / "6.png").touch()
    (folder / "broken.png").write_bytes(b"no picture")
    compositions[21].save(folder / "new.png")
    report = build(index, eye, folder)
    expected = {"unchanged": 4, "moved": 1, "copied": 1, "changed": 1, "deleted": 1, "touched": 1, "added": 1}
    assert [*report.unreadable] == [str(folder / "broken.png")]
    assert numbers(report) == {**expected, "unreadable": report.unreadable}

    rows, vectors = index.all()
    assert [row.path for row in rows] == sorted(
        str(path) for path in folder.rglob("*.png") if path.name != "broken.png"
    )
    assert np.allclose(vectors, eye.embed([row.path for row in rows]), atol=1e-5)
    assert {Path(row.path).name: row.label for row in rows}["copy.png"] == "b"
    assert {Path(row.path).name: row.label for row in rows}["moved.png"] is None
    assert numbers(build(index, eye, folder)) == {"unchanged": 9, "unreadable": report.unreadable}


def test_a_picture_that_breaks_leaves_and_other_folders_stay(index, eye, folder):
    build(index, eye, folder / "a")
    build(index, eye, folder / "b")
    assert len(index) == 4
    (folder / "a/0.png").write_bytes(b"no picture")
    assert build(index, eye, folder / "a").unchanged == 1
    assert [Path(row.path).name for row in index.all()[0]] == ["1.png", "2.png", "3.png"]


def test_labels_stay_where_a_folder_tells_none(index, eye, folder):
    build(index, eye, folder)
    before = {row.path: row.label for row in index.rows()}
    assert build(index, eye, folder / "b").touched == 0
    assert {row.path: row.label for row in index.rows()} == before and "b" in before.values()


def test_a_build_that_was_stopped_goes_on(index, eye, folder):
    seen = []

    def stop_at_the_sixth():
        seen.append(1)
        if len(seen) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(index, eye, folder, portion=2, batch_size=2, advance=stop_at_the_sixth)
    again = Index.open(index.folder)
    assert len(again) == 4  # two portions were committed
    assert numbers(build(again, eye, folder)) == {"unchanged": 4, "added": 4}


def test_moved_files_are_not_lost_when_a_build_stops(index, eye, folder):
    build(index, eye, folder)
    (folder / "a").rename(folder / "z")
    with pytest.raises(KeyboardInterrupt):
        build(index, eye, folder, portion=1, advance=stop_after(7))
    report = build(index, eye, folder)
    assert report.added == 0 and len(index) == 8


def stop_after(count):
    left = iter(range(count))

    def advance():
        if next(left, None) is None:
            raise KeyboardInterrupt

    return advance


def test_one_model_a_table(index, eye, folder, tmp_path):
    other = ImageClassifier.load(write_classifier(tmp_path / "other"))
    with pytest.raises(SettingError, match=r"holds vectors of tiny .* would be of .*other"):
        Index.create(index.folder, identity_of(other))
    with pytest.raises(SettingError, match="mean"):
        Index.create(index.folder, identity_of(eye, "mean"))
    moved = tmp_path / "elsewhere"
    shutil.copytree(Path(__file__).parents[2] / "src/eyesel/assets/tiny/classifier", moved)
    assert len(Index.create(index.folder, identity_of(ImageClassifier.load(moved)))) == 0  # the same weights


def test_search_and_conditions(index, eye, folder, compositions):
    build(index, eye, folder)
    rows, vectors = index.all()
    units = unit(vectors)
    for i in range(len(rows)):
        hits = index.search(vectors[i], 5)
        order = np.argsort(1 - units @ units[i], kind="stable")[:5]
        assert [hit.path for hit in hits] == [rows[j].path for j in order]
        assert np.allclose([hit.distance for hit in hits], (1 - units @ units[i])[order], atol=1e-5)
    hits = index.search(vectors[0], 5, "label = 'b' AND width >= 32")
    assert [hit.label for hit in hits] == ["b", "b"]
    assert index.search(vectors[0], 5, "label = 'it''s nothing'") == []
    for where in ("lable = 'b'", "label === 'b'", "label", "width = 'wide'", "DROP TABLE pictures", ""):
        with pytest.raises(SettingError, match="is no condition"):
            index.search(vectors[0], 5, where)
    assert len(index) == 8


def test_recall_of_exact_and_approximate_search(tmp_path, eye):
    index = Index.create(tmp_path / "db", identity_of(eye))
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 128))
    vectors = (centres[rng.integers(0, 50, 2000)] + 0.5 * rng.normal(size=(2000, 128))).astype(np.float32)
    index.put([Row(f"{i:04d}", 0, 0, f"{i}", None, 1, 1) for i in range(2000)], vectors)
    queries = vectors[:40]
    true = nearest(unit(queries), unit(vectors), 10)[0]

    def recall(exact):
        found = [{int(hit.path) for hit in index.search(query, 10, exact=exact)} for query in queries]
        return np.mean([len(some & set(row)) / 10 for some, row in zip(found, true.tolist(), strict=True)])

    assert recall(False) == 1
    index.approximate(partitions=100)
    assert recall(True) == 1 and 0.9 <= recall(False) <= 1


def test_duplicates():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(5, 16))
    vectors = np.concatenate([base, base[:1] * 2, base[1:2] + 1e-3, base[1:2] + 2e-3]).astype(np.float32)
    hashes = ["a", "b", "c", "d", "e", "a", "f", "g"]
    groups = duplicates([Row(str(i), 0, 0, digest, None, 1, 1) for i, digest in enumerate(hashes)], vectors, 0.999)
    assert [(group.rows, group.exact) for group in groups] == [((0, 5), True), ((1, 6, 7), False)]
    assert 0.999 <= groups[1].similarity < 1
    with pytest.raises(SettingError, match="threshold is 2"):
        duplicates([], vectors, 2)


def test_auroc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    odd = rng.random(200) < 0.3
    scores = np.round(rng.normal(size=200) + odd, 1)  # with ties
    assert math.isclose(auroc(scores, odd), roc_auc_score(odd, scores), abs_tol=1e-12)
    assert auroc(scores, np.zeros(200, bool)) is None
    labels = ["fox", "good", "crack", None]
    assert auroc_by_label(np.array([0.1, 0.2, 0.9, 5.0]), labels, {"fox"}) == 1
    assert auroc_by_label(np.array([0.1, 0.2]), ["fox", "good"], {"fox"}) is None


def test_a_family_that_was_held_out_is_anomalous(eye, compositions):
    labels = [best.label for (best,) in eye.classify(compositions, 1)]
    odd = np.array([label in VEHICLES for label in labels])
    assert odd.sum() == len(VEHICLES)
    good = [v for i in np.flatnonzero(~odd) for v in variants(compositions[i], 4, seed=i)]
    new = [v for i in range(32) for v in variants(compositions[i], 2, seed=100 + i)]
    scores = anomaly(eye.embed(good), eye.embed(new))
    assert auroc(scores, odd.repeat(2)) >= 0.95


def test_the_odd_one_out():
    vectors = np.random.default_rng(0).normal(size=(30, 8)) * 0.1 + 1
    vectors[7] *= np.array([-1, 1] * 4)
    assert spread(vectors).argmax() == 7
    with pytest.raises(SettingError, match="30 neighbours"):
        spread(vectors, 30)


def blobs(count):
    rng = np.random.default_rng(1)
    centres = np.eye(16)[:count]
    return np.concatenate([c + 0.05 * rng.normal(size=(10 + i, 16)) for i, c in enumerate(centres)])


@pytest.mark.parametrize("count", [3, 7])
def test_clusters_find_how_many_there_are(count):
    vectors = blobs(count)
    truth = np.repeat(np.arange(count), 10 + np.arange(count))
    for found in (kmeans(vectors, most=20), hdbscan(vectors)):
        assert found.count == count
        sizes = np.bincount(found.labels)
        assert (sizes[:-1] >= sizes[1:]).all()
        assert len({(a, b) for a, b in zip(truth, found.labels, strict=True)}) == count
    assert kmeans(vectors, k=2).count == 2
    with pytest.raises(SettingError, match="k is 1"):
        kmeans(vectors, k=1)


def test_a_map_shows_every_picture_once(tmp_path):
    vectors = blobs(3)
    flat = places(vectors)
    assert flat.shape == (33, 2) and flat.min() == 0 and flat.max() == 1
    Image.new("RGB", (8, 4), (9, 90, 200)).save(tmp_path / "p.png")
    page = np.asarray(map_of([tmp_path / "p.png"] * 33, flat, np.repeat([0, 1, -1], 11), cell=20))
    assert ((page == (9, 90, 200)).all(-1)).sum() == 33 * 15 * 15


def test_labels_of_a_folder(tmp_path):
    files = [tmp_path / "fox" / "1.png", tmp_path / "2.png", tmp_path / "3.png"]
    assert [*folder_labels(tmp_path, files).values()] == ["fox", None, None]
    (tmp_path / "metadata.csv").write_text("file_name,label\n2.png,owl\n3.png,\n")
    assert [*folder_labels(tmp_path, files).values()] == ["fox", "owl", None]
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "fox/1.png", "label": 3}\n\n{"file_name": "2.png"}\n')
    assert [*folder_labels(tmp_path, files).values()] == ["3", None, None]
    for text in ("{", "[1]", '{"label": "fox"}'):
        (tmp_path / "metadata.jsonl").write_text(text)
        with pytest.raises(ImageError, match=r"metadata\.jsonl cannot be read"):
            folder_labels(tmp_path, files)
