"""`eyesel embed` as a person runs it."""

import importlib.util
import json

import numpy as np
from PIL import Image
from safetensors import safe_open

from command_line import files, refused


def test_embed(run, picture, classifier, tmp_path):
    other = tmp_path / "other.png"
    Image.new("RGB", (8, 8)).save(other)
    code, out, _ = run("embed", picture, other, "-m", classifier, "-o", "e.npz", "--pool", "mean")
    assert code == 0 and "2 x 48" in out
    with np.load(tmp_path / "e.npz") as stored:
        assert stored["files"].tolist() == [str(picture), str(other)]
        assert stored["embeddings"].shape == (2, 48) and stored["embeddings"].dtype == np.float32


def test_embed_several_layers_of_another_size(run, picture, classifier, tmp_path):
    options = ["--layer", 1, "--layer", -1, "--pool", "grid", "--image-size", "48x24", "--normalize", "--final-norm"]
    code, out, _ = run("embed", picture, "-m", classifier, "-o", "e.safetensors", "--json", *options)
    assert code == 0 and json.loads(out)["shape"] == [1, 2, 3, 6, 48]
    with safe_open(tmp_path / "e.safetensors", "np") as stored:
        assert json.loads(stored.metadata()["files"]) == [str(picture)]
        assert np.allclose(np.linalg.norm(stored.get_tensor("embeddings"), axis=-1), 1)


def test_embed_to_parquet(run, picture, classifier, tmp_path):
    if importlib.util.find_spec("pyarrow") is None:
        refused(run("embed", picture, "-m", classifier, "-o", "e.parquet"), "pip install pyarrow")
        assert files(tmp_path) == ["picture.png"]
        return
    import pyarrow.parquet

    for options, shape in [([], (1, 48)), (["--layer", 0, "--layer", 2], (1, 2, 48))]:
        assert run("embed", picture, "-m", classifier, "-o", "e.parquet", "--force", *options)[0] == 0
        table = pyarrow.parquet.read_table(tmp_path / "e.parquet")
        assert table["file"].to_pylist() == [str(picture)]
        assert np.array(table["embedding"].to_pylist()).shape == shape
    assert run("embed", picture, "-m", classifier, "-o", "e.npz", "--layer", 0, "--layer", 2)[0] == 0
    with np.load(tmp_path / "e.npz") as stored:
        assert np.array_equal(stored["embeddings"], np.array(table["embedding"].to_pylist(), np.float32))


def test_embed_refuses(run, picture, classifier, tmp_path):
    refused(run("embed", picture, "-m", classifier, "-o", "e.csv"), ".npz")
    refused(run("embed", picture, "-m", classifier, "-o", "no/e.npz"), "no")
    refused(run("embed", picture, "-m", classifier, "-o", "e.npz", "--layer", 9), "9")
    refused(run("embed", picture, "-m", classifier, "-o", "e.npz", "--batch-size", 0), "0")
    for size in ("big", "33", "0", "16x", "8x8x8", "99999999"):
        refused(run("embed", picture, "-m", classifier, "-o", "e.npz", "--image-size", size), size.strip("x"))
    (tmp_path / "there.npz").write_bytes(b"precious")
    refused(run("embed", picture, "-m", classifier, "-o", "there.npz"), "there.npz", "--force")
    assert (tmp_path / "there.npz").read_bytes() == b"precious"
    (tmp_path / "there.npz").unlink()
    assert files(tmp_path) == ["picture.png"]
