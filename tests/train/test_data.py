"""Labelled pictures from wherever they lie, and what is wrong with them."""

import json
import shutil
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from eyesel.errors import ImageError, SettingError
from eyesel.train.labelled import read_labelled
from eyesel.train.splits import make_splits


def made(data, **options):
    return make_splits(read_labelled(data, **options), 0.25, seed=1)


def test_class_folders_with_a_part_held_back(pictures):
    splits = made(pictures)
    assert list(splits.classes) == ["a", "b", "c", "d"] and splits.test is None
    assert Counter(splits.validation.labels) == dict.fromkeys(range(4), 2)
    assert Counter(splits.train.labels) == dict.fromkeys(range(4), 6)
    assert not set(splits.train.names) & set(splits.validation.names)
    assert made(pictures).validation.names == splits.validation.names
    other = make_splits(read_labelled(pictures), 0.25, seed=2)
    assert other.validation.names != splits.validation.names
    for name, label, i in zip(splits.train.names, splits.train.labels, range(3), strict=False):
        assert Path(name).parent.name == splits.classes[label]
        assert np.array_equal(np.asarray(splits.train.pictures[i]), np.asarray(Image.open(name).convert("RGB")))


@pytest.mark.parametrize("word", ["validation", "valid", "val", "dev"])
def test_split_folders(tmp_path, pictures, word):
    shutil.copytree(pictures, tmp_path / "data" / "train")
    for name in "abcd":
        for split, i in ((word, 0), ("test", 1)):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            shutil.move(tmp_path / "data" / "train" / name / f"{i}.png", tmp_path / "data" / split / name)
    splits = made(tmp_path / "data")
    assert splits.test is not None and (len(splits.train), len(splits.validation), len(splits.test)) == (24, 4, 4)
    assert {Path(name).name for name in splits.validation.names} == {"0.png"}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata(tmp_path, pictures, kind):
    flat = tmp_path / "flat"
    flat.mkdir()
    rows = []
    for path in sorted(pictures.rglob("*.png")):
        shutil.copy(path, flat / f"{path.parent.name}{path.name}")
        rows.append({"file_name": f"{path.parent.name}{path.name}", "kind": f"kind {path.parent.name}"})
    if kind == "jsonl":
        (flat / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        (flat / "metadata.csv").write_text(
            "file_name,kind\n" + "".join(f"{r['file_name']},{r['kind']}\n" for r in rows)
        )
    splits = made(flat, label_column="kind")
    assert list(splits.classes) == [f"kind {name}" for name in "abcd"] and len(splits.train) == 24
    with pytest.raises(ImageError, match=r"and 31 more.*has no label"):
        read_labelled(flat)
    (flat / "a0.png").unlink()
    with pytest.raises(ImageError, match=r"a0\.png is in the metadata and does not exist"):
        read_labelled(flat, label_column="kind")


@pytest.mark.parametrize("named", [True, False])
def test_parquet(tmp_path, pictures, named):
    files = sorted(pictures.rglob("*.png"))
    labels = [file.parent.name for file in files]
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "label": datasets.ClassLabel(names=list("dcba")) if named else datasets.Value("string"),
        }
    )
    table = datasets.Dataset.from_dict({"img": [str(file) for file in files], "label": labels}, features=features)
    (tmp_path / "tables").mkdir()
    table.to_parquet(tmp_path / "tables" / "train-00000-of-00001.parquet")
    table.select(range(0, 32, 8)).to_parquet(tmp_path / "tables" / "test-00000-of-00001.parquet")
    splits = made(tmp_path / "tables")
    assert list(splits.classes) == list("dcba" if named else "abcd")
    assert splits.test is not None and len(splits.test) == 4 and len(splits.train) == 24
    assert [splits.classes[label] for label in splits.test.labels] == list("abcd")
    assert np.array_equal(np.asarray(splits.test.pictures[3]), np.asarray(Image.open(files[24]).convert("RGB")))
    one = made(tmp_path / "tables" / "train-00000-of-00001.parquet")
    assert len(one.train) == 24
    with pytest.raises(SettingError, match=r"no column shape, only img, label.*--label-column"):
        read_labelled(tmp_path / "tables", label_column="shape")


def test_unreadable_pictures_are_named_and_counted(pictures):
    (pictures / "a" / "0.png").write_bytes(b"nothing")
    whole = (pictures / "c" / "5.png").read_bytes()
    (pictures / "c" / "5.png").write_bytes(whole[: len(whole) // 2])
    splits = made(pictures)
    assert len(splits.train) + len(splits.validation) == 30
    assert ["a/0.png" in splits.skipped[0], "c/5.png" in splits.skipped[1]] == [True, True]
    assert all(Image.fromarray(np.asarray(p)) for p in (splits.train.pictures[i] for i in range(len(splits.train))))
    with pytest.raises(ImageError, match=r"a/0\.png"):
        make_splits(read_labelled(pictures), 0.25, 1, strict=True)


def test_classes_that_cannot_be_learned(tmp_path, pictures):
    (pictures / "empty").mkdir()
    with pytest.raises(SettingError, match="the class 'empty' has no picture"):
        made(pictures)
    (pictures / "empty").rmdir()
    for path in (pictures / "b").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(SettingError, match="the class 'b' has no picture that can be read"):
        made(pictures)
    for name in "bcd":
        shutil.rmtree(pictures / name)
    with pytest.raises(SettingError, match="there is one class, 'a'"):
        made(pictures)


def test_labels_that_differ_between_splits(tmp_path, pictures):
    for split in ("train", "test"):
        shutil.copytree(pictures, tmp_path / "data" / split)
    shutil.rmtree(tmp_path / "data" / "test" / "a")
    assert made(tmp_path / "data").notes == ["the test split has no picture of 'a'"]
    (tmp_path / "data" / "test" / "b").rename(tmp_path / "data" / "test" / "z")
    with pytest.raises(SettingError, match="the test split has the label 'z'"):
        made(tmp_path / "data")
    shutil.copytree(pictures, tmp_path / "data" / "testing")
    with pytest.raises(ImageError, match="both a test split"):
        made(tmp_path / "data")


def test_what_is_no_data_set(tmp_path, pictures):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingError, match="none does not exist"):
        read_labelled(tmp_path / "none")
    with pytest.raises(SettingError, match="is no data set"):
        read_labelled(pictures / "a" / "0.png")
    with pytest.raises(ImageError, match="no picture in"):
        read_labelled(tmp_path / "empty")
