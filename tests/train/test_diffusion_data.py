"""What a painter is trained on: captions, buckets, cached latents, masks, and the draws of a run."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from eyesel.errors import ImageError, SettingError
from eyesel.stable_diffusion import StableDiffusion
from eyesel.train.diffusion.buckets import Bucketed, Buckets
from eyesel.train.diffusion.cache import Cache
from eyesel.train.diffusion.captions import read_samples, tags
from eyesel.train.diffusion.dataset import fitted
from eyesel.train.diffusion.fit import buckets_for, data_samples, encoded, opened_samples
from eyesel.train.diffusion.masks import random_mask
from eyesel.train.diffusion.prior import captioned_samples
from eyesel.train.diffusion.settings import Settings
from eyesel.train.diffusion.texts import Reader, Wording
from eyesel.train.draws import generator


def picture(path, size=(40, 40), colour=(200, 30, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def captions(samples, folder):
    return {str(sample.path.relative_to(folder)): (sample.caption, sample.repeats) for sample in samples}


# --- captions


def test_captions_from_metadata_sidecars_and_folders(tmp_path):
    for name in ("a.png", "b.png", "10_red fox/c.png", "10_red fox/d.png", "blue_owl/e.png"):
        picture(tmp_path / name)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "from the table"}) + "\n")
    (tmp_path / "b.txt").write_text("from a file\n")
    (tmp_path / "10_red fox/d.caption").write_text("its own")
    assert captions(read_samples(tmp_path)[0], tmp_path) == {
        "a.png": ("from the table", 1),
        "b.png": ("from a file", 1),
        "10_red fox/c.png": ("red fox", 10),
        "10_red fox/d.png": ("its own", 10),
        "blue_owl/e.png": ("blue owl", 1),
    }


def test_metadata_in_csv_and_another_column(tmp_path):
    picture(tmp_path / "x/a.png")
    (tmp_path / "x/metadata.csv").write_text("file_name,caption,words\na.png,one,two\n")
    assert captions(read_samples(tmp_path)[0], tmp_path) == {"x/a.png": ("one", 1)}
    assert captions(read_samples(tmp_path, column="words")[0], tmp_path) == {"x/a.png": ("two", 1)}
    with pytest.raises(ImageError, match="no column 'title'; it has file_name, caption, words"):
        read_samples(tmp_path, column="title")


def test_one_prompt_for_all(tmp_path):
    picture(tmp_path / "a.png")
    assert captions(read_samples(tmp_path, prompt="a sks dog")[0], tmp_path) == {"a.png": ("a sks dog", 1)}


def test_missing_captions_are_named_and_counted(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    (tmp_path / "a.txt").write_text("a")
    samples, notes = read_samples(tmp_path)
    assert list(captions(samples, tmp_path)) == ["a.png"]
    assert notes == ["pictures left out because they have no caption: 2 (b.png, c.png)"]
    with pytest.raises(ImageError, match=r"2 pictures in .* have no caption"):
        read_samples(tmp_path, strict=True)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(ImageError, match=r"3 pictures in .* have no caption .*: give"):
        read_samples(tmp_path)
    assert [sample.caption for sample in read_samples(tmp_path, needed=False)[0]] == [None] * 3


def test_metadata_of_pictures_that_are_not_there(tmp_path):
    picture(tmp_path / "a.png")
    rows = [{"file_name": "a.png", "text": "a"}, {"file_name": "gone.png", "text": "b"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    samples, notes = read_samples(tmp_path)
    assert len(samples) == 1
    assert notes == ["pictures of the metadata that are not there: 1 (gone.png)"]
    with pytest.raises(ImageError, match=r"that are not there \(gone.png\)"):
        read_samples(tmp_path, strict=True)


def test_what_is_to_be_kept_has_captions_of_its_own(tmp_path):
    for name in ("a.png", "2_an owl/b.png", "c.png"):
        picture(tmp_path / name)
    (tmp_path / "a.txt").write_text("a fox on blue")
    samples, notes = captioned_samples(Settings(class_data=str(tmp_path)))
    assert captions(samples, tmp_path) == {"a.png": ("a fox on blue", 1), "2_an owl/b.png": ("an owl", 2)}
    assert all(sample.prior for sample in samples)
    assert notes == ["pictures left out because they have no caption: 1 (c.png)"]
    assert captioned_samples(Settings(class_data=str(tmp_path), class_prompt="a fox")) == ([], [])
    assert captioned_samples(Settings()) == ([], [])
    with pytest.raises(ImageError, match="or one class_prompt for all"):
        captioned_samples(Settings(class_data=str(tmp_path), strict=True))


def test_tags_are_counted_by_folder(tmp_path):
    for i, text in enumerate(["fox, red", "fox, blue"]):
        picture(tmp_path / f"2_fox/{i}.png")
        (tmp_path / f"2_fox/{i}.txt").write_text(text)
    assert tags(read_samples(tmp_path)[0]) == {"2_fox": {"fox": 2, "red": 1, "blue": 1}}


# --- what is said in a draw


def test_tags_are_shuffled_behind_those_that_stay():
    wording = Wording(shuffle=True, keep=1)
    said = [wording.draw("trigger, a, b, c", generator(0, i)) for i in range(40)]
    assert all(text.startswith("trigger, ") for text in said)
    assert len(set(said)) == 6
    assert said == [wording.draw("trigger, a, b, c", generator(0, i)) for i in range(40)]


def test_captions_are_dropped_as_often_as_is_asked():
    wording = Wording(dropout=0.25)
    dropped = sum(wording.draw("fox", generator(1, i)) is None for i in range(2000))
    assert 0.21 < dropped / 2000 < 0.29


def test_long_captions_are_cut_or_read_in_chunks():
    tokenizer = StableDiffusion.load("tiny", device="cpu").tokenizers[0]
    text = " ".join(["fox"] * 70)
    short, long = Reader([tokenizer]), Reader([tokenizer], count=3)
    assert [tuple(ids.shape) for ids in short.ids(text)] == [(1, tokenizer.max_length)]
    assert short.is_cut(text)
    assert not long.is_cut(text)
    [rows] = long.ids(text)
    assert int((rows == tokenizer.ids("fox")[0]).sum()) == 70


# --- buckets


def test_the_sizes_are_those_of_kohya():
    """`make_bucket_resolutions((512, 512), 256, 1024, 64)` of sd-scripts."""
    sizes = Buckets(512, 64, 256, 1024).sizes
    expected = {(512, 512)}
    for width in range(256, 1025, 64):
        height = min(1024, int((512 * 512 // width) // 64) * 64)
        if height >= 256:
            expected |= {(width, height), (height, width)}
    assert sizes == sorted(expected)
    assert (448, 576) in sizes
    assert (1024, 256) in sizes


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (512, 512), (2000, 100), (33, 57)])
def test_a_picture_fills_its_bucket(size):
    buckets = Buckets(512, 64, 256, 1024)
    scaled, bucket, left, top = buckets.place(size)
    ratio = size[0] / size[1]
    assert bucket in buckets.sizes
    assert abs(bucket[0] / bucket[1] - ratio) == min(abs(w / h - ratio) for w, h in buckets.sizes)
    assert scaled[0] >= bucket[0] and scaled[1] >= bucket[1]
    assert scaled[0] == bucket[0] or scaled[1] == bucket[1]
    assert (left, top) == ((scaled[0] - bucket[0]) // 2, (scaled[1] - bucket[1]) // 2)
    assert fitted(Image.new("RGB", size), buckets.place(size)).size == bucket


def test_small_pictures_stay_small_on_request():
    buckets = Buckets(512, 64, 256, 1024, upscale=False)
    assert buckets.place((300, 200)) == ((300, 200), (256, 192), 22, 4)
    scaled, bucket, _, _ = buckets.place((2000, 1000))
    assert scaled[0] * scaled[1] <= 512 * 512 * 1.1
    assert math.isclose(scaled[0] / scaled[1], 2, rel_tol=0.01)
    assert all(side % 64 == 0 for side in bucket)
    with pytest.raises(SettingError, match="30x200 pixels is smaller than a step of 64"):
        buckets.place((30, 200))


def test_batches_have_one_size_and_come_again():
    sizes = [(32, 32)] * 5 + [(40, 24)] * 7
    sampler = Bucketed(sizes, batch=4, seed=3)
    draws = list(sampler)
    assert len(draws) == len(sampler) == 16
    assert {draw.number % 12 for draw in draws} == set(range(12))
    assert len({draw.number for draw in draws}) == 16
    for start in range(0, 16, 4):
        assert len({sizes[draw.number % 12] for draw in draws[start : start + 4]}) == 1
    assert draws == list(Bucketed(sizes, batch=4, seed=3))
    sampler.set_epoch(1)
    assert [draw.number for draw in sampler] != [draw.number for draw in draws]


def test_a_bucket_must_hold_the_resolution():
    painter = StableDiffusion.load("tiny", device="cpu")
    assert buckets_for(painter, Settings()) == Buckets(32, 8, 16, 64)
    with pytest.raises(SettingError, match="resolution is 30; it must be a multiple of 8"):
        buckets_for(painter, Settings(resolution=30))
    with pytest.raises(SettingError, match="min_bucket does nothing without buckets"):
        buckets_for(painter, Settings(buckets=False, min_bucket=16))


# --- the cache


@pytest.fixture(scope="module")
def tiny():
    return StableDiffusion.load("tiny", device="cpu", precision="float32")


def examples_of(painter, folder, cache, flip=False):
    settings = Settings(instance_prompt="a fox")
    pictures, samples, _ = opened_samples(data_samples(folder, settings)[0], strict=True)
    return encoded(painter, samples, pictures, buckets_for(painter, settings), cache, flip)


def test_what_is_kept_is_what_is_computed(tiny, tmp_path):
    """In memory, in files, from files that are there, and straight from the autoencoder."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for i, size in enumerate([(64, 64), (90, 45)]):
        picture(folder / f"{i}.png", size)
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(folder / f"{i}.png")
    held, kept = Cache(), Cache(tmp_path / "kept")
    examples = examples_of(tiny, folder, held, flip=True)
    assert examples == examples_of(tiny, folder, kept, flip=True)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    assert len(files) == 4
    assert examples == examples_of(tiny, folder, Cache(tmp_path / "kept"), flip=True)
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    for example in examples:
        straight = fitted(Image.open(example.sample.path).convert("RGB"), example.placed)
        assert straight.size == example.placed.size
        for key, image in zip(
            example.keys, (straight, straight.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), strict=True
        ):
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
            with torch.no_grad():
                mean, log_variance = tiny.autoencoder.moments(pixels)
            for cache in (held, kept):
                assert (cache[key]["mean"] - mean[0]).abs().max() < 1e-5
                assert (cache[key]["log_variance"] - log_variance[0]).abs().max() < 1e-5
            assert all(torch.equal(held[key][name], kept[key][name]) for name in ("mean", "log_variance"))


def test_a_damaged_file_is_made_anew(tmp_path):
    cache = Cache(tmp_path)
    assert cache.make("a", lambda: {"x": torch.ones(2)})
    (tmp_path / "a.safetensors").write_bytes(b"short")
    assert cache.make("a", lambda: {"x": torch.ones(2)})
    assert load_file(tmp_path / "a.safetensors")["x"].tolist() == [1, 1]
    assert not cache.make("a", lambda: {"x": torch.zeros(2)})


def test_other_pictures_have_other_keys(tiny, tmp_path):
    picture(tmp_path / "a.png", colour=(1, 2, 3))
    first = examples_of(tiny, tmp_path, Cache())[0].keys
    picture(tmp_path / "a.png", colour=(1, 2, 4))
    assert examples_of(tiny, tmp_path, Cache())[0].keys != first


def test_masks_are_of_every_size():
    shares = [float(random_mask((64, 48), generator(0, i)).mean()) for i in range(200)]
    assert min(shares) < 0.02
    assert max(shares) > 0.7
    assert random_mask((64, 48), generator(0, 1)).shape == (1, 48, 64)
    assert set(random_mask((64, 48), generator(0, 1)).unique().tolist()) <= {0.0, 1.0}
