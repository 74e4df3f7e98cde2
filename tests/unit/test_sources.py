"""Many pictures: where they come from, what is done ahead of the model, and the draft mode of JPEGs."""

import io
import os
import random
import tarfile
import threading
import tracemalloc
from array import array
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import files
from eyesel import ImageClassifier, SettingError, open_image
from eyesel.errors import ImageError
from eyesel.images import Source, Tally, ahead, digest, each_source, find_images, find_sources
from eyesel.stream import DRAFT

COMPOSITIONS = Path(__file__).parents[1] / "data" / "compositions.png"


def picture(shade=0, form="PNG", size=(8, 8)):
    file = io.BytesIO()
    Image.new("RGB", size, (shade, 0, 0)).save(file, form)
    return file.getvalue()


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def names(*arguments):
    return [source.name for source in each_source(find_sources(arguments))]


@pytest.mark.parametrize(
    ("suffix", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tgz", "w:gz"), ("tar.bz2", "w:bz2"), ("tar.xz", "w:xz")]
)
def test_the_pictures_of_an_archive(tmp_path, suffix, mode):
    members = [("b.png", picture(1)), ("b.cls", b"3"), ("x/a.jpg", picture(2, "JPEG")), (".hidden.png", picture(3))]
    path = write_tar(tmp_path / f"s.{suffix}", members, mode)
    sources = list(each_source(find_sources([path])))
    assert [source.name for source in sources] == [f"{path}/b.png", f"{path}/x/a.jpg"]
    assert open_image(sources[0].content).getpixel((0, 0)) == (1, 0, 0)
    assert files(tmp_path) == [path.name]


def test_nothing_in_an_archive_reaches_the_disk(tmp_path):
    """Paths that lead away, links and devices are names of pictures, or nothing."""
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as archive:
        for kind, name in ((tarfile.SYMTYPE, "link.png"), (tarfile.CHRTYPE, "device.png"), (tarfile.FIFOTYPE, "p.png")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("a/../../b.png")
        member.size = len(picture())
        archive.addfile(member, io.BytesIO(picture()))
    with pytest.raises(ImageError, match="no picture in the archive"):
        names(path)
    assert files(tmp_path) == ["s.tar"]


def test_an_archive_that_breaks_off_says_so_and_the_next_one_follows(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, 40_000, dtype=np.uint8).tobytes()
    whole = write_tar(tmp_path / "1.tar.gz", [("a.png", picture()), ("b.png", noise), ("c.png", noise)], "w:gz")
    whole.write_bytes(whole.read_bytes()[:50_000])
    (tmp_path / "2.tar").write_bytes(b"no archive at all")
    write_tar(tmp_path / "3.tar", [("d.png", picture())])
    sources = list(each_source(find_sources(tmp_path / "*.tar*")))
    assert [source.name.rpartition("/")[2] for source in sources] == ["a.png", "b.png", "1.tar.gz", "2.tar", "d.png"]
    for source in sources[2:4]:
        assert isinstance(source.content, ImageError) and source.name in str(source.content)


def test_a_list_of_files(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "#1 ö.png").write_bytes(picture())
    write_tar(tmp_path / "s.tar", [("a.png", picture())])
    absolute = tmp_path / "photos" / "gone.png"
    (tmp_path / "list.txt").write_text(f"photos/#1 ö.png\r\n\n{absolute}\ns.tar\nphotos/#1 ö.png\n", encoding="utf-8")
    found = names(f"@{tmp_path / 'list.txt'}")
    assert found == [str(tmp_path / "photos" / "#1 ö.png"), str(absolute), f"{tmp_path}/s.tar/a.png"]
    for content in (b"", b"\n\n", picture()):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(ImageError, match="no names"):
            names(f"@{tmp_path / 'list.txt'}")
    with pytest.raises(ImageError, match="no list"):
        names("@none.txt")


def test_folders_are_gone_through_in_the_order_of_their_paths(tmp_path):
    """Whatever sorts between a slash and a dot, and however often a picture is meant."""
    for name in ("a/b.png", "a.png", "a-b/c.png", "a/b/c/d.PNG", "a/b.d/.e.png", "A.jpg", "b/.c/d.png", "a/text.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture())
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "nothing.png").symlink_to("nothing.png")
    (tmp_path / "again").symlink_to(".", target_is_directory=True)
    expected = sorted(tmp_path / name for name in ("a/b.png", "a.png", "a-b/c.png", "a/b/c/d.PNG", "A.jpg", "link.png"))
    assert find_images(tmp_path) == expected
    (tmp_path / "again").unlink()
    assert find_images(str(tmp_path / "**" / "*.*")) == expected
    some = find_sources([tmp_path / "a.png", tmp_path, tmp_path / "a"])
    once = [expected[expected.index(tmp_path / "a.png")], *(p for p in expected if p != tmp_path / "a.png")]
    assert len(some) == len(expected) and list(some) == once and list(some) == once


def test_a_folder_that_cannot_be_read_is_left_out_and_said(tmp_path):
    """As one without permission would be; its path is longer than the system takes."""
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "deep").mkdir()
    place = os.open(tmp_path / "deep", os.O_RDONLY)
    for _ in range(20):
        os.mkdir("x" * 250, dir_fd=place)
        inner = os.open("x" * 250, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    with pytest.warns(UserWarning, match=r"x cannot be read \(File name too long\) and is left out"):
        assert find_images(tmp_path) == [tmp_path / "a.png"]


def test_names_are_counted_by_their_digests():
    some = [f"picture {random.Random(i).randrange(300)}" for i in range(1000)]
    tally, left = Tally(array("Q", map(digest, some[:600]))), Counter(some[:600])
    assert len(tally) == len(left)
    for name in some:
        assert tally.take(name) == (left[name] > 0)
        left[name] -= left[name] > 0
    assert not Tally([]).take("a") and not Tally([digest("\udcff")]).take("\udcfe")


def test_the_names_of_a_folder_are_not_kept(tmp_path):
    """Of 4,000 in forty folders, less than a fifth of what their paths alone would need."""
    for i in range(40):
        (tmp_path / f"{i}").mkdir()
        for j in range(100):
            (tmp_path / f"{i}" / f"{j}.png").touch()
    tracemalloc.start()
    found = find_sources(tmp_path)
    assert len(found) == sum(1 for _ in found) == 4000
    assert tracemalloc.get_traced_memory()[1] < 80 * 4000
    tracemalloc.stop()


def test_work_is_done_ahead_but_not_too_far_and_in_order():
    taken, reached = [], threading.Event()

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    def work(i):
        if i == 0:
            assert reached.wait(10)  # the first is done last
        if i == 3:
            reached.set()
        return i * i

    results = ahead(items(), work, 2, 5)
    assert next(results) == 0 and len(taken) == 6
    assert list(results) == [i * i for i in range(1, 100)]


def test_what_goes_wrong_ahead_reaches_the_reader():
    results = ahead(iter([1, 0, 2]), lambda i: 1 // i, 2, 1)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.fixture(scope="module")
def eye():
    return ImageClassifier.load("tiny", precision="float32")


def test_many_are_answered_as_one_by_one(eye, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(11):
        Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)).save(tmp_path / f"{i:02}.png")
    (tmp_path / "04.png").write_bytes(b"not a picture")
    answers = list(eye.classify_many(tmp_path, 2, batch_size=4, workers=3, thumbnail=20))
    assert [answer.name for answer in answers] == sorted(str(path) for path in tmp_path.iterdir())
    vectors = list(eye.embed_many(str(tmp_path / "*.png"), "mean", [0, -1], batch_size=3))
    for answer, vector in zip(answers, vectors, strict=True):
        if answer.name.endswith("04.png"):
            assert answer.value is None and vector.value is None and answer.name in answer.error
            continue
        alone = eye.classify(answer.name, 2)
        assert [p.label for p in answer.value] == [p.label for p in alone]
        np.testing.assert_allclose([p.score for p in answer.value], [p.score for p in alone], atol=1e-5)
        np.testing.assert_allclose(vector.value, eye.embed(answer.name, "mean", [0, -1]), atol=1e-5)
        assert max(answer.thumbnail.size) == 20


def test_sources_of_ones_own_in_constant_memory(eye):
    """Sixty pictures of 3 MB, of which there are never more than those that are decoded ahead."""
    frames = (Source(f"frame {i}", np.zeros((1000, 1000, 3), np.uint8)) for i in range(60))
    tracemalloc.start()
    assert [answer.name for answer in eye.classify_many(frames, batch_size=2, workers=1)][-1] == "frame 59"
    assert tracemalloc.get_traced_memory()[1] < 12 * 3_000_000
    tracemalloc.stop()


def test_bad_settings_are_found_at_once(eye):
    for bad in ({"batch_size": 0}, {"workers": 0}, {"top_k": 0}, {"thumbnail": 0}, {"function_to_apply": "max"}):
        with pytest.raises(SettingError, match=next(iter(bad))):
            eye.classify_many("none.png" if "batch_size" in bad else [], **bad)
    with pytest.raises(SettingError, match="layer"):
        eye.embed_many([], layer=99)


def test_drafts_keep_what_they_are_told_to():
    smooth = Image.linear_gradient("L").resize((1000, 704)).convert("RGB")
    file = io.BytesIO()
    smooth.save(file, "JPEG", quality=95)
    sizes = {at_least: open_image(file.getvalue(), at_least=at_least).size for at_least in (80, 100, 352, 353, 5000)}
    assert sizes == {80: (125, 88), 100: (250, 176), 352: (500, 352), 353: (1000, 704), 5000: (1000, 704)}
    half, whole = open_image(file.getvalue(), at_least=300), open_image(file.getvalue())
    difference = np.asarray(half.resize((100, 70))).astype(int) - np.asarray(whole.resize((100, 70)))
    assert abs(difference).max() <= 3
    assert open_image(picture(size=(64, 64)), at_least=8).size == (64, 64)  # no JPEG
    assert open_image(picture(form="JPEG", size=(67, 64)), at_least=8).size == (67, 64)  # half a pixel more
    assert open_image(picture(form="JPEG", size=(68, 64)), at_least=8).size == (17, 16)  # 8 is no divisor


@pytest.mark.parametrize("scale", [8, 12])
def test_what_the_network_reads_of_a_draft_is_within_the_stated_tolerance(eye, scale):
    """4 of 255 in each number, a half on average, of compositions saved as JPEGs."""
    sheet = Image.open(COMPOSITIONS).convert("RGB")
    for i in range(16):
        cell = sheet.crop((32 * (i % 8), 32 * (i // 8), 32 * (i % 8) + 32, 32 * (i // 8) + 32))
        file = io.BytesIO()
        cell.resize((32 * scale,) * 2, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        whole, draft = open_image(file.getvalue()), open_image(file.getvalue(), at_least=DRAFT * 32)
        assert draft.size == (16 * scale, 16 * scale)
        apart = (eye.transform([whole]) - eye.transform([draft])).abs() * 127.5  # they are from -1 to 1
        assert apart.max() <= 4 and apart.mean() <= 0.5
