"""Files of embeddings of more pictures than are written at a time."""

import numpy as np
import pytest

from eyesel.embeddings import write_embeddings
from eyesel.parquet import ROW_GROUP


class Names:
    """As a journal has them: to be gone through more than once, and of no length."""

    def __init__(self, count):
        self.all = [f"{'x' * (i % 7)}ö{i}.png" for i in range(count)]

    def __iter__(self):
        return iter(self.all)


@pytest.mark.parametrize("count", [0, 1, ROW_GROUP, ROW_GROUP + 5])
def test_names_and_vectors_come_back(tmp_path, count):
    names, vectors = Names(count), np.random.default_rng(0).normal(size=(count, 2, 3)).astype(np.float32)
    write_embeddings(tmp_path / "e.npz", names, vectors)
    with np.load(tmp_path / "e.npz") as stored:
        assert stored.files == ["files", "embeddings"] and stored["files"].tolist() == names.all
        assert np.array_equal(stored["embeddings"], vectors)
    parquet = pytest.importorskip("pyarrow.parquet")
    write_embeddings(tmp_path / "e.parquet", names, vectors)
    table = parquet.read_table(tmp_path / "e.parquet")
    assert table["file"].to_pylist() == names.all
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32).reshape(vectors.shape), vectors)
