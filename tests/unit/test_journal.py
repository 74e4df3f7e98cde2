"""A run's journal after whatever may happen to it: nothing twice, nothing missing, nothing of others destroyed."""

import json

import numpy as np
import pytest

from eyesel.errors import OutputError, SettingError
from eyesel.images import Source
from eyesel.journal import Journal, is_finished

SETTINGS = {"model": "tiny", "layer": [3, -1]}


def vector(i):
    return np.full((2, 3), i, np.float32)


def begun(output, count=4):
    """Picture 2 could not be read."""
    with Journal(output, SETTINGS, shape=(2, 3)) as journal:
        for i in range(count):
            if i == 2:
                journal.append([{"file": "2", "error": "broken"}])
            else:
                journal.append([{"file": str(i)}], [vector(i)])
    return output.with_name("e.npz.part"), output.with_name("e.npz.part.f32")


def gone_on_with(output, total=6):
    """What is in it when the rest has been added, too."""
    with Journal(output, SETTINGS, resume=True, shape=(2, 3)) as journal:
        left = [source.name for source in journal.remaining(Source(str(i), None) for i in range(total))]
        for name in left:
            journal.append([{"file": name}], [vector(int(name))])
        return left, list(journal.rows()), np.array(journal.vectors())


def test_every_byte_at_which_a_run_can_be_killed(tmp_path):
    """Vectors are written before their rows; of both, any part may be there when the process is gone."""
    output = tmp_path / "e.npz"
    part, raw = begun(output)
    rows, vectors = part.read_bytes(), raw.read_bytes()
    header = rows.index(b"\n") + 1
    for cut in range(header, len(rows) + 1):
        part.write_bytes(rows[:cut])
        raw.write_bytes(vectors + b"half"[: cut % 5])
        whole = rows[:cut].count(b"\n") - 1
        left, found, held = gone_on_with(output)
        assert left == [str(i) for i in range(whole, 6)]
        assert [row["file"] for row in found] == list("012345")
        expected = [i for i in range(6) if i != 2 or whole < 3]
        assert np.array_equal(held, np.stack([vector(i) for i in expected]))


def test_rows_without_their_vectors_are_done_again(tmp_path):
    """As after a power cut, when files are shorter than they were thought to be."""
    part, raw = begun(tmp_path / "e.npz")
    raw.write_bytes(raw.read_bytes()[:-1])
    assert gone_on_with(tmp_path / "e.npz")[0] == ["3", "4", "5"]
    part.write_bytes(part.read_bytes()[:-40] + b"\0" * 40)
    left, found, held = gone_on_with(tmp_path / "e.npz")
    assert left and sorted(row["file"] for row in found) == list("012345") and len(held) == 5


def test_names_that_occur_twice(tmp_path):
    with Journal(tmp_path / "a.jsonl", SETTINGS) as journal:
        journal.append([{"file": "a"}, {"file": "b"}])
        sources = [Source(name, None) for name in "abaca"]
        assert [source.name for source in journal.remaining(sources)] == ["a", "c", "a"]


def test_other_settings_are_refused(tmp_path):
    part, _ = begun(tmp_path / "e.npz")
    before = part.read_bytes()
    with pytest.raises(OutputError, match=r"layer was \[3, -1\], and now it is 3"):
        Journal(tmp_path / "e.npz", {"model": "tiny", "layer": 3}, resume=True, shape=(2, 3))
    with pytest.raises(OutputError, match="shape"):
        Journal(tmp_path / "e.npz", SETTINGS, resume=True, shape=(2, 4))
    assert part.read_bytes() == before
    for foreign in (b"somebody's\n", b"{}\n", b"", json.dumps({"eyesel": 1}).encode()):
        part.write_bytes(foreign)
        with pytest.raises(OutputError, match="not an unfinished run"):
            Journal(tmp_path / "e.npz", SETTINGS, resume=True, shape=(2, 3))
        assert part.read_bytes() == foreign


def test_what_is_there_stays_unless_it_is_allowed(tmp_path):
    output = tmp_path / "e.npz"
    assert not is_finished(output, resume=True, force=False)
    output.touch()
    assert is_finished(output, resume=True, force=False) and not is_finished(output, resume=False, force=True)
    with pytest.raises(OutputError, match="--force"):
        is_finished(output, resume=False, force=False)
    begun(output)
    assert not is_finished(output, resume=True, force=False)
    with pytest.raises(OutputError, match="--resume"):
        is_finished(output, resume=False, force=False)
    with pytest.raises(SettingError, match="--resume"):
        is_finished(output, resume=True, force=True)


def test_a_run_that_found_nothing_leaves_nothing(tmp_path):
    begun(tmp_path / "e.npz", count=0)
    assert list(tmp_path.iterdir()) == []
