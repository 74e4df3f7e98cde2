"""`eyesel index ...`: from a folder to an index and what is found in it."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from command_line import files, refused

SHEET = Path(__file__).parents[1] / "data" / "compositions.png"


@pytest.fixture
def photos(tmp_path):
    """Four compositions, three times each, a pixel aside: in photos/0 to photos/3."""
    sheet = Image.open(SHEET).convert("RGB")
    for i in range(4):
        (tmp_path / "photos" / str(i)).mkdir(parents=True)
        for shift in range(3):
            box = (32 * i, shift, 32 * i + 32, 32 + shift)
            sheet.crop(box).save(tmp_path / "photos" / str(i) / f"{shift}.png")
    return tmp_path / "photos"


@pytest.fixture
def db(run, photos):
    assert run("index", "build", photos, "--db", "db")[0] == 0
    return "db"


def test_build(run, photos):
    code, out, _ = run("index", "build", photos, "--db", "db", "--json")
    told = json.loads(out)
    assert code == 0 and told["rows"] == told["added"] == 12 and told["model"].startswith("tiny (32x32, cls, weights ")
    (photos / "broken.jpg").write_bytes(b"nothing")
    code, out, err = run("index", "build", photos, "--db", "db")
    assert code == 0 and "12 pictures of tiny" in out and out.rstrip().endswith("12 unchanged")
    assert "left out" in err and "broken.jpg" in err


def test_one_model(run, photos, db, classifier):
    refused(run("index", "build", photos, "--db", db, "-m", classifier), "holds vectors of tiny", str(classifier))
    refused(run("index", "search", photos / "0/0.png", "--db", db, "-m", classifier), "holds vectors of tiny")
    assert run("index", "build", photos, "--db", "other", "-m", classifier)[0] == 0
    assert run("index", "build", photos, "--db", "other")[1].rstrip().endswith("12 unchanged")  # its own model again
    assert run("index", "search", photos / "0/0.png", "--db", "other")[0] == 0


def test_search(run, photos, db, tmp_path):
    code, out, err = run("index", "search", photos / "2/1.png", "--db", db, "--top-k", 3, "--sheet", "s.png")
    lines = out.splitlines()
    assert code == 0 and err == "" and lines[0].split()[:2] == ["0.0000", "2"] and "2/1.png" in lines[0]
    assert all(f"{photos}/2/" in line for line in lines)
    assert Image.open(tmp_path / "s.png").width > 3 * 96
    where = "label <> '2' AND width >= 32"
    code, out, err = run(
        "index", "search", photos / "2/1.png", photos / "2/2.png", "--db", db, "--where", where, "--json"
    )
    assert code == 0 and len(json.loads(out)["hits"]) == 9
    assert "the mean of 3 pictures" in run("index", "search", photos / "2", "--db", db)[2]
    refused(run("index", "search", photos / "2/1.png", "--db", db, "--where", "lable = 2"), "is no condition", "lable")
    refused(run("index", "search", photos / "2/1.png", "--db", "nowhere"), "there is no index", "eyesel index build")
    refused(run("index", "search", photos / "2/1.png", "--db", db, "--top-k", 0), "k is 0")
    refused(run("index", "search", photos / "2/1.png", "--db", db, "--sheet", "s.pdf"), ".pdf")


def test_duplicates(run, photos, db, tmp_path):
    (photos / "0/copy.png").write_bytes((photos / "0/1.png").read_bytes())
    run("index", "build", photos, "--db", db)
    code, out, _ = run("index", "duplicates", "--db", db, "--threshold", 1, "--sheet", "twice.png")
    assert code == 0 and out.splitlines()[0] == "the same bytes" and out.splitlines()[-1].startswith("1 group among 13")
    assert [line.strip() for line in out.splitlines()[1:3]] == [str(photos / "0/1.png"), str(photos / "0/copy.png")]
    near = json.loads(run("index", "duplicates", "--db", db, "--threshold", 0.8, "--json")[1])
    assert len(near) == 4 and all(len({Path(file).parent for file in group["files"]}) == 1 for group in near)
    assert (tmp_path / "twice.png").is_file()


def test_clusters(run, db, tmp_path):
    code, out, _ = run("index", "clusters", "--db", db, "-o", "clusters")
    assert code == 0 and out.startswith("clusters: 4 clusters of 12 pictures (silhouette 0.")
    expected = [*(f"cluster-0{i}.png" for i in range(4)), "clusters.json", "map.png"]
    assert files(tmp_path / "clusters") == expected
    told = json.loads((tmp_path / "clusters/clusters.json").read_text())
    assert [cluster["size"] for cluster in told["clusters"]] == [3] * 4
    assert all(list(cluster["labels"].values()) == [1.0] for cluster in told["clusters"])
    refused(run("index", "clusters", "--db", db, "-o", "clusters"), "exists already", "--force")
    (tmp_path / "clusters/mine.txt").write_text("stays")
    assert run("index", "clusters", "--db", db, "-o", "clusters", "--k", 2, "--force")[0] == 0
    assert files(tmp_path / "clusters") == ["cluster-00.png", "cluster-01.png", "clusters.json", "map.png", "mine.txt"]
    code, out, _ = run("index", "clusters", "--db", db, "-o", "dense", "--method", "hdbscan", "--min-size", 3, "--json")
    assert code == 0 and len(json.loads(out)["clusters"]) >= 2
    refused(run("index", "clusters", "--db", db, "-o", "x", "--k", 12), "k is 12")
    assert not (tmp_path / "x").exists()


def test_outliers(run, photos, db, tmp_path):
    code, out, _ = run("index", "outliers", "--db", db, "--top", 3, "--k", 2)
    distances = [float(line.split()[0]) for line in out.splitlines()]
    assert code == 0 and len(distances) == 3 and distances == sorted(distances, reverse=True)
    good = tmp_path / "good"
    good.mkdir()
    for name in ("0", "1", "2"):
        (photos / name).rename(good / name)
    new = tmp_path / "new"
    (new / "1").mkdir(parents=True)
    (good / "1/0.png").rename(new / "1/0.png")
    (photos / "3").rename(new / "crack")
    options = ["--fit", good, "--score", new, "--k", 2, "--sheet", "odd.png"]
    code, out, _ = run("index", "outliers", *options)
    assert code == 0 and "AUROC 1.0000" in out and all("crack" in line for line in out.splitlines()[:3])
    told = json.loads(run("index", "outliers", *options, "--json")[1])
    assert told["auroc"] == 1 and told["good"] == 8 and told["beyond"] == 3 and len(told["scores"]) == 4
    refused(run("index", "outliers"), "--db DIR, or both --fit GOOD and --score NEW")
    refused(run("index", "outliers", "--fit", good), "--db DIR, or both")
    refused(run("index", "outliers", "--fit", good, "--score", new, "--k", 20), "20 neighbours")


def test_outliers_among_which_one_cannot_be_read(run, photos):
    (photos / "0" / "broken.png").write_bytes(b"nothing")
    code, out, err = run("index", "outliers", "--fit", photos, "--score", photos / "0")
    assert code == 0 and err.count("left out") == 2 and "0 of 3 lie beyond" in out and "the 12 good ones" in out
    for file in (photos / "1").iterdir():
        file.write_bytes(b"nothing")
    refused(
        run("index", "outliers", "--fit", photos / "2", "--score", photos / "1"), "none of the pictures", "photos/1"
    )


def test_without_the_extra(run, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    refused(run("index", "build", photos, "--db", "db"), 'pip install "eyesel[search]"', "lancedb")
    refused(run("index", "search", photos / "0/0.png", "--db", "db"), 'pip install "eyesel[search]"')
