"""What lies in a folder of pictures, told apart with care."""

import json
import shutil

import datasets
import pytest

from eyesel.errors import ImageError, SettingError
from eyesel.train.diffusion.captions import read_samples
from eyesel.train.folders import read_metadata, split_folders
from eyesel.train.labelled import read_labelled
from eyesel.train.splits import make_splits


def test_a_split_lies_beside_splits_alone(tmp_path, pictures):
    assert split_folders(pictures) == {"train": pictures}
    (pictures / "d").rename(pictures / "train")  # trains, beside a, b and c
    assert split_folders(pictures) == {"train": pictures}
    assert read_labelled(pictures)["train"].classes == ["a", "b", "c", "train"]
    (pictures / "train").rename(pictures / "test")
    with pytest.raises(ImageError, match=r"pictures/test is a split, and .*pictures/a beside it is none"):
        split_folders(pictures)
    shutil.copytree(pictures / "a", tmp_path / "halves" / "validation" / "a")
    with pytest.raises(ImageError, match="has validation and no folder train"):
        split_folders(tmp_path / "halves")


def test_folders_that_are_links_and_such_without_a_picture(tmp_path, pictures):
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in "ab":
        (linked / name).symlink_to(pictures / name)
    assert read_labelled(linked)["train"].labels == [*"a" * 8, *"b" * 8]
    (pictures / "birds").mkdir()
    (pictures / "birds" / "1.heic").write_bytes(b"a format that is not read")
    with pytest.raises(SettingError, match="the class 'birds' has no picture that can be read"):
        make_splits(read_labelled(pictures), 0.25, 1)


def described(folder, text, name="metadata.jsonl"):
    folder.mkdir()
    (folder / name).write_bytes(text.encode())
    return read_metadata(folder)


def test_metadata_as_other_programs_write_them(tmp_path):
    """A byte order mark, lines of Windows, characters that only some call ends of lines, quotes and commas."""
    row = {"file_name": "./sub/../a.png", "text": "one\u2028two\x85three"}
    found = described(tmp_path / "1", "\ufeff" + json.dumps(row, ensure_ascii=False) + "\r\n")
    assert found == {tmp_path / "1" / "a.png": row}
    found = described(tmp_path / "2", '\ufefffile_name,text\r\n"a, b.png","a ""big""\nfox"\r\n', "metadata.csv")
    assert found[tmp_path / "2" / "a, b.png"]["text"] == 'a "big"\nfox'


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "", "sub/../.."])
def test_metadata_name_files_below_alone(tmp_path, name):
    with pytest.raises(ImageError, match="which is no file in"):
        described(tmp_path / "x", json.dumps({"file_name": name, "text": "a"}))


def test_metadata_that_contradict_themselves(tmp_path, pictures):
    rows = [{"file_name": "a/0.png", "label": label} for label in ("cat", "dog")]
    with pytest.raises(ImageError, match=r"describes 'a/0.png' twice"):
        described(tmp_path / "twice", "\n".join(map(json.dumps, rows)))
    (pictures / "metadata.jsonl").write_text(json.dumps({"file_name": "a/0.png", "label": ["cat", "dog"]}))
    with pytest.raises(ImageError, match=r"has the label \['cat', 'dog'\]: a picture has one label"):
        read_labelled(pictures)
    with pytest.raises(ImageError, match="has no column 'kind'; it has file_name, label"):
        read_labelled(pictures, label_column="kind")
    (pictures / "metadata.csv").write_text("file_name,label\n")
    with pytest.raises(ImageError, match="both describe the pictures"):
        read_labelled(pictures)


def test_columns_of_what_has_none(tmp_path, pictures):
    with pytest.raises(SettingError, match="image_column is that of a table"):
        read_labelled(pictures, image_column="x")
    with pytest.raises(ImageError, match="label_column is 'x', and no metadata"):
        read_labelled(pictures, label_column="x")
    with pytest.raises(ImageError, match="caption_column is 'x', and no metadata"):
        read_samples(pictures, column="x")


def test_tables_with_gaps(tmp_path, pictures):
    """What is wrong with a row is said of the row."""
    files = [str(path) for path in sorted(pictures.rglob("*.png"))[:16]]
    images = [{"bytes": b"nothing", "path": None}, None, *files[2:]]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"image": images, "label": [*"a" * 8, *"b" * 8]}, features=features)
    table.to_parquet(tmp_path / "odd.parquet")
    splits = make_splits(read_labelled(tmp_path / "odd.parquet"), 0.25, 1)
    assert [f"odd.parquet, row {i} " in sentence for i, sentence in enumerate(splits.skipped)] == [True, True]
    table.select_columns(["image"]).add_column("label", [*"a" * 15, None]).to_parquet(tmp_path / "gap.parquet")
    with pytest.raises(SettingError, match="row 15, has the label None"):
        read_labelled(tmp_path / "gap.parquet")
    shutil.copy(tmp_path / "odd.parquet", pictures)
    with pytest.raises(SettingError, match="holds pictures, and the table"):
        read_labelled(pictures)


def test_offline_asks_nobody():
    with pytest.raises(SettingError, match=r"nobody/nothing cannot be read \(.*OfflineModeIsEnabled"):
        read_labelled("nobody/nothing", offline=True)
