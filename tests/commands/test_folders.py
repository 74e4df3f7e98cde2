"""Whole folders on the command line: broken pictures among them, tables, runs that are killed, contact sheets."""

import csv
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from command_line import files, refused
from eyesel import ImageClassifier


@pytest.fixture
def photos(tmp_path):
    """Nine pictures, of which the fifth is cut short, and something that is none."""
    folder = tmp_path / "photos"
    (folder / "fox").mkdir(parents=True)
    for i in range(9):
        pixels = np.random.default_rng(i).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "fox" / f"{i}.png")
    broken = folder / "fox" / "4.png"
    broken.write_bytes(broken.read_bytes()[:1000])
    (folder / "notes.txt").write_text("no picture")
    return folder


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_broken_picture_does_not_stop_a_folder(run, photos, classifier, tmp_path):
    options = ["classify", photos, "-m", classifier, "--batch-size", 2]
    code, out, err = run(*options, "-o", "r.jsonl")
    assert code == 0 and out == "r.jsonl: 9 pictures\n" and files(tmp_path) == ["photos", "r.jsonl"]
    assert err.splitlines()[0] == "eyesel: 1 of 9 pictures could not be read:" and "4.png is damaged" in err
    rows = rows_of(tmp_path / "r.jsonl")
    assert [row["file"] for row in rows] == [str(photos / "fox" / f"{i}.png") for i in range(9)]
    assert [i for i, row in enumerate(rows) if "error" in row] == [4] and "damaged" in rows[4]["error"]

    code, out, err = run(*options, "--strict", "--json")
    assert code == 1 and json.loads(out) == rows and "could not be read" in err
    code, out, _ = run(*options, "--strict", "-o", "s.jsonl", "--json")
    assert code == 1 and json.loads(out) == {"output": "s.jsonl", "files": 8, "failed": [rows[4]]}
    assert rows_of(tmp_path / "s.jsonl") == rows
    code, out, _ = run(*options, "--top-k", 1)
    assert code == 0 and len(out.splitlines()) == 2 * 8
    (photos / "fox" / "4.png").unlink()
    assert run(*options, "--strict")[0] == 0


def test_at_most_twenty_failures_are_named(run, classifier, tmp_path):
    for i in range(23):
        (tmp_path / f"{i:02}.png").write_bytes(b"no picture")
    code, out, err = run("classify", ".", "-m", classifier, "-o", "r.csv")
    lines = err.splitlines()
    assert code == 0 and lines[0].startswith("eyesel: 23 of 23") and lines[-1] == "  and 3 more" and len(lines) == 22
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 24
    code, out, _ = run("embed", ".", "-m", classifier, "-o", "e.npz", "--json")
    entry = json.loads(out)
    assert code == 0 and entry["shape"] == [0, 48] and len(entry["failed"]) == 23
    with np.load(tmp_path / "e.npz") as stored:
        assert stored["embeddings"].shape == (0, 48)


def test_tables_say_the_same(run, photos, classifier, tmp_path):
    odd = photos / 'a "quoted", name.png'
    Image.new("RGB", (8, 8)).save(odd)
    options = ["classify", photos, "-m", classifier, "--top-k", 2]
    assert run(*options, "-o", "r.jsonl")[0] == 0 and run(*options, "-o", "r.csv")[0] == 0
    rows = rows_of(tmp_path / "r.jsonl")
    assert rows[0]["file"] == str(odd)
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["file", "label_1", "score_1", "label_2", "score_2", "error"]
    for row, cells in zip(rows, table, strict=True):
        assert cells["file"] == row["file"] and cells["error"] == row.get("error", "")
        for i, prediction in enumerate(row.get("predictions", ()), 1):
            assert (cells[f"label_{i}"], float(cells[f"score_{i}"])) == (prediction["label"], prediction["score"])
    if importlib.util.find_spec("pyarrow") is None:
        refused(run(*options, "-o", "r.parquet"), "pip install pyarrow")
        return
    import pyarrow.parquet

    assert run(*options, "-o", "r.parquet")[0] == 0
    stored = pyarrow.parquet.read_table(tmp_path / "r.parquet").to_pylist()
    assert [{key: value for key, value in row.items() if value is not None} for row in stored] == [
        {**row, "predictions": [{**p, "score": np.float32(p["score"])} for p in row["predictions"]]}
        if "predictions" in row
        else row
        for row in rows
    ]


def test_archives_and_lists(run, photos, classifier, tmp_path):
    with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as archive:
        archive.add(photos, "photos")
    (tmp_path / "list.txt").write_text("photos/fox/0.png\ns.tar.gz\nphotos/gone.png\n")
    code, out, err = run("classify", "@list.txt", "-m", classifier, "--json")
    rows = json.loads(out)
    assert code == 0 and len(rows) == 11 and "2 of 11" in err
    assert "photos/gone.png does not exist" in rows[-1]["error"]
    assert rows[1]["file"] == "s.tar.gz/photos/fox/0.png" and rows[0]["predictions"] == rows[1]["predictions"]
    (tmp_path / "bad.tar").write_bytes(b"not an archive")
    refused(run("classify", "bad.tar", "-m", classifier), "bad.tar", "no tar archive")
    refused(run("embed", "bad.tar", "-m", classifier, "-o", "e.npz"), "bad.tar", "no tar archive")
    refused(run("classify", "@none.txt", "-m", classifier), "none.txt")
    assert files(tmp_path) == ["bad.tar", "list.txt", "photos", "s.tar.gz"]


def start(*arguments, cwd):
    command = [sys.executable, "-c", "from eyesel.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("command", ["classify", "embed"])
def test_a_killed_run_goes_on(run, photos, classifier, tmp_path, command):
    """SIGKILL between two pictures of a stream; the half-written row that it may leave is put there by hand."""
    output = tmp_path / ("r.jsonl" if command == "classify" else "r.npz")
    options = [
        command,
        "-",
        "-m",
        classifier,
        "--batch-size",
        2,
        "--workers",
        1,
        "--precision",
        "float32",
        "-o",
        output,
    ]
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for i in range(40):
            archive.add(photos / "fox" / f"{i % 9}.png", f"{i:02}.png")
    part = tmp_path / f"{output.name}.part"
    process = start(*options, cwd=tmp_path)
    try:
        process.stdin.write(data.getvalue()[: len(data.getvalue()) * 2 // 3])
        process.stdin.flush()
        while process.poll() is None and not (part.exists() and part.read_bytes().count(b"\n") > 9):
            time.sleep(0.02)
        assert process.poll() is None, process.stderr.read()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not output.exists()
    with part.open("ab") as file:
        file.write(b'{"file": "39.p')
    refused(run(*options), "unfinished", "--resume", "--force")
    before = part.read_bytes().count(b"\n") - 1
    process = start(*options, "--resume", "--json", cwd=tmp_path)
    out, err = process.communicate(data.getvalue())
    assert process.returncode == 0, err
    failed = [f"{i:02}.png" for i in range(40) if i % 9 == 4]
    summary = json.loads(out)
    assert 9 <= before < 40 and [row["file"] for row in summary["failed"]] == failed
    assert sorted(files(tmp_path)) == ["photos", output.name]

    eye = ImageClassifier.load(classifier, precision="float32")
    readable = [f"{i:02}.png" for i in range(40) if i % 9 != 4]
    originals = [photos / "fox" / f"{int(name[:2]) % 9}.png" for name in readable]
    if command == "classify":
        rows = rows_of(output)
        assert [row["file"] for row in rows] == [f"{i:02}.png" for i in range(40)]
        found = [[p["score"] for p in row["predictions"]] for row in rows if "error" not in row]
        expected = [[p.score for p in predictions] for predictions in eye.classify(originals)]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    else:
        with np.load(output) as stored:
            assert stored["files"].tolist() == readable
            np.testing.assert_allclose(stored["embeddings"], eye.embed(originals), atol=1e-4)
    code, out, err = run(*options, "--resume")
    assert (code, out) == (0, "") and "is finished" in err


def test_an_interrupted_run_says_how_to_go_on(run, photos, classifier, tmp_path, monkeypatch):
    from eyesel.journal import Journal

    append = Journal.append

    def interrupted(self, rows, vectors=()):
        append(self, rows, vectors)
        if self.count == 4:
            os.kill(os.getpid(), signal.SIGINT)

    options = ["classify", photos, "-m", classifier, "--batch-size", 2, "-o", "r.csv"]
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", interrupted)
        code, out, err = run(*options)
    assert code == 130 and out == "" and "4 pictures are in r.csv.part" in err and "--resume" in err
    refused(run(*options, "--resume", "--top-k", 2), "top_k", "5", "2")
    assert run(*options, "--resume")[0] == 0 and files(tmp_path) == ["photos", "r.csv"]
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 10


def test_what_is_there_is_kept(run, photos, classifier, tmp_path):
    (tmp_path / "r.jsonl").write_text("precious")
    options = ["classify", photos, "-m", classifier, "-o", "r.jsonl"]
    refused(run(*options), "r.jsonl", "exists", "--force")
    refused(run(*options, "--force", "--resume"), "--force", "--resume")
    refused(run(*options[:-1], "r.txt"), ".txt", ".jsonl")
    refused(run(*options[:-1], "no/r.csv"), "no")
    refused(run(*options[:-2], "--resume"), "--output")
    refused(run(*options[:-2], "--sheet", "s.txt"), ".txt")
    refused(run(*options[:-2], "--workers", 0), "workers")
    (tmp_path / "nothing").mkdir()
    refused(run("classify", "nothing", "-m", classifier, "-o", "n.csv"), "no picture in nothing")
    refused(run("embed", "nothing", "-m", classifier, "-o", "n.npz"), "no picture in nothing")
    assert (tmp_path / "r.jsonl").read_text() == "precious" and files(tmp_path) == ["nothing", "photos", "r.jsonl"]
    assert run(*options, "--force")[0] == 0 and len(rows_of(tmp_path / "r.jsonl")) == 9


def test_a_contact_sheet(run, photos, classifier, tmp_path):
    options = ["classify", photos, "-m", classifier, "--sheet", "s.png", "--sheet-order", "worst"]
    code, out, err = run(*options, "-o", "r.csv")
    assert code == 0 and out.endswith("s.png: a sheet\n") and "1 of 9" in err
    with Image.open(tmp_path / "s.png") as page:
        assert page.mode == "RGB" and page.width > 6 * 192 and page.height > 2 * 192
    refused(run(*options), "s.png", "--force")
    code, out, _ = run(*options, "--force", "--json")
    assert code == 0 and len(json.loads(out)) == 9


def test_drafts_are_asked_for(run, classifier, tmp_path):
    Image.effect_mandelbrot((800, 600), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(tmp_path / "x.jpg")
    plain, draft = (
        json.loads(run("classify", "x.jpg", "-m", classifier, "--json", *option)[1])[0]["predictions"]
        for option in ([], ["--draft"])
    )
    assert plain != draft
    np.testing.assert_allclose([p["score"] for p in plain], [p["score"] for p in draft], atol=0.05)
