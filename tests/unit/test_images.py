"""Opening (good pictures of every kind, bad input of every kind), saving with metadata, finding."""

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin

from eyesel import images
from eyesel.errors import ImageError, OutputError
from eyesel.images import check_writable, find_images, open_image, read_metadata, save_image


def gradient(width: int = 24, height: int = 16) -> Image.Image:
    """Red grows to the right, green downwards: every mirror image of it looks different."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 60)], -1).astype(np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


# Good pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "file", "buffer", "PIL", "array", "tensor", "float tensor"])
def test_every_source_gives_the_same_picture(kind, tmp_path):
    image, path = gradient(), tmp_path / "gradient.png"
    image.save(path)
    array = np.asarray(image)
    sources = {
        "path": path,
        "str": str(path),
        "bytes": path.read_bytes(),
        "file": path.open("rb"),
        "buffer": io.BytesIO(path.read_bytes()),
        "PIL": image,
        "array": array,
        "tensor": torch.tensor(array).permute(2, 0, 1),
        "float tensor": torch.tensor(array).permute(2, 0, 1) / 255,
    }
    assert np.array_equal(pixels(open_image(sources[kind])), pixels(image))
    sources["file"].close()


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3), (5, 6, 4), (3, 5, 6), (1, 5, 6), (3, 4, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.bool_])
def test_arrays(shape, dtype):
    top = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    image = open_image(np.full(shape, top, dtype))
    assert image.size == ((4, 3) if shape == (3, 4, 3) else (6, 5))
    assert (pixels(image) == 255).all()


def test_ambiguous_shapes_follow_the_custom_of_their_library():
    assert open_image(np.zeros((3, 7, 4), np.uint8)).size == (7, 3)
    assert open_image(torch.zeros(3, 7, 4)).size == (4, 7)


def test_float_arrays_are_rounded_not_floored():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(pixels(open_image(values / np.float32(255)))[..., 0], values)


def test_exif_rotation():
    upright = gradient()
    for code, undo in [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90), (5, Image.Transpose.TRANSPOSE)]:
        exif = Image.Exif()
        exif[0x0112] = code
        stored = encoded(upright.transpose(undo), "JPEG", quality=95, exif=exif)
        opened = open_image(stored)
        assert opened.size == upright.size
        assert np.abs(pixels(opened) - pixels(upright)).mean() < 6
        assert not opened.info
        assert not opened.getexif()


def test_corrupt_exif_is_no_obstacle():
    stored = encoded(gradient(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff rubbish")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(stored).size == (24, 16)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        stored = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
        assert np.abs(pixels(open_image(stored)) - (255, 0, 0)).max() < 8


def test_cmyk_jpeg():
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    assert np.abs(pixels(open_image(encoded(cmyk, "JPEG", quality=95))) - (255, 0, 0)).max() < 8


def test_the_a_of_lab_is_no_alpha():
    red = ImageCms.applyTransform(
        Image.new("RGB", (4, 4), (200, 30, 30)),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    assert np.abs(pixels(open_image(encoded(red, "TIFF"))) - (200, 30, 30)).max() < 8


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    opened = open_image(encoded(Image.fromarray(ramp), kind))
    assert np.array_equal(pixels(opened)[..., 0], np.arange(256).reshape(16, 16))


def test_wide_modes_of_pillow():
    ramp = np.arange(256).reshape(16, 16)
    for wide in (
        Image.fromarray(ramp.astype(np.int32)),  # as Image.convert("I") leaves 8 bits
        Image.fromarray((ramp * 257).astype(np.int32)),
        Image.fromarray(ramp.astype(np.float32)),
        Image.fromarray((ramp / 255).astype(np.float32)),
    ):
        assert np.array_equal(pixels(open_image(wide))[..., 1], ramp)
    with pytest.raises(ImageError, match="-1 to 254"):
        open_image(Image.fromarray((ramp - 1).astype(np.int32)))
    with pytest.raises(ImageError, match="nan"):
        open_image(Image.fromarray(np.full((4, 4), np.nan, np.float32)))


def test_transparency_is_laid_over_white():
    clear_red, half_black = (255, 0, 0, 0), (0, 0, 0, 128)
    rgba = Image.new("RGBA", (2, 1), clear_red)
    rgba.putpixel((1, 0), half_black)
    expected = [[[255, 255, 255], [127, 127, 127]]]
    assert pixels(open_image(encoded(rgba, "PNG"))).tolist() == expected
    assert pixels(open_image(np.asarray(rgba))).tolist() == expected
    assert pixels(open_image(encoded(Image.new("LA", (1, 1), (40, 0)), "PNG"))).tolist() == [[[255, 255, 255]]]
    assert pixels(open_image(encoded(Image.new("LA", (1, 1), (40, 255)), "PNG"))).tolist() == [[[40, 40, 40]]]


def test_palette_with_transparency():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for transparency in (0, b"\x00\xff"):
            opened = open_image(encoded(palette, "PNG", transparency=transparency))
            assert pixels(opened).tolist() == [[[255, 255, 255], [200, 100, 50]]]
    assert pixels(open_image(encoded(palette, "PNG"))).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_the_given_picture_is_left_alone():
    image = gradient()
    image.info["note"] = "mine"
    opened = open_image(image)
    opened.putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == (0, 0, 60)
    assert image.info == {"note": "mine"}


# Bad input --------------------------------------------------------------------------------------------------------


def refused(source, *words: str) -> None:
    with warnings.catch_warnings(), pytest.raises(ImageError) as error:
        warnings.simplefilter("error")
        open_image(source)
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_bad_files(tmp_path):
    png, jpeg = encoded(gradient(200, 200), "PNG"), encoded(gradient(200, 200), "JPEG")
    files = {
        "empty.png": b"",
        "text.png": b"dear diary, today I was no picture",
        "short.png": png[: len(png) // 2],
        "short.jpg": jpeg[: len(jpeg) // 2],
        "flipped.png": png[:60] + b"\xff\x00\xff" + png[63:],
        "vector.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    refused(tmp_path / "empty.png", "empty.png", "0 bytes")
    refused(tmp_path / "text.png", "text.png", "not a picture")
    refused(tmp_path / "vector.eps", "vector.eps", "not a picture")
    for name in ("short.png", "short.jpg", "flipped.png"):
        refused(tmp_path / name, name, "damaged or cut short")
    refused(tmp_path / "nothing.png", "nothing.png", "does not exist")
    refused(tmp_path, str(tmp_path), "folder")
    refused("fox\0.png", "cannot be opened")
    refused("x" * 5000, "cannot be opened")
    refused("https://example.org/fox.png", "https://example.org/fox.png", "download")


def test_a_pillow_without_avif(monkeypatch):
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    refused(b"dear diary", "not a picture")
    assert open_image(encoded(gradient(), "TIFF")).size == (24, 16)


def test_bad_objects():
    refused(b"", "0 bytes")
    refused(b"GIF89a", "6 bytes")
    refused(io.StringIO("text"), "binary mode")
    refused(None, "NoneType")
    refused(np.zeros((2, 5, 6, 3), np.uint8), "(2, 5, 6, 3)")
    refused(np.zeros((5, 6, 2), np.uint8), "(5, 6, 2)")
    refused(np.zeros((0, 6, 3), np.uint8), "(0, 6, 3)")
    refused(torch.zeros(7), "(7,)")
    refused(np.zeros((5, 6), np.int64), "int64")
    refused(np.full((5, 6), 255.0), "255")
    refused(np.full((5, 6), np.nan), "nan")


def test_a_bomb_is_refused_by_its_header(tmp_path, monkeypatch):
    bomb = png_header(50_000, 50_000, bytes(10_000))
    (tmp_path / "bomb.png").write_bytes(bomb)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    refused(tmp_path / "bomb.png", "bomb.png", "2,500,000,000 pixels", "178,956,970")
    refused(png_header(13_400, 13_400, b""), "178,956,970")
    limit = Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # somebody else's program may have lifted Pillow's own guard
    refused(bomb, "50,000 x 50,000", "178,956,970")
    assert limit == 89_478_485


def test_a_large_picture_gives_no_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # Pillow warns above this, and refuses above twice this
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(encoded(gradient(24, 16), "PNG")).size == (24, 16)


def test_threads_do_not_disturb_the_warning_filters():
    before, stored = list(warnings.filters), encoded(gradient(), "PNG")
    threads = [threading.Thread(target=lambda: [open_image(stored) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


# Finding ----------------------------------------------------------------------------------------------------------


def test_find_images(tmp_path):
    for name in ("b.png", "a.JPG", "note.txt", ".hidden.png", "sub/c.webp", "sub/deep/d.gif", ".git/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def names(paths):
        return [str(path.relative_to(tmp_path)) for path in find_images(paths)]

    assert names(tmp_path) == ["a.JPG", "b.png", "sub/c.webp", "sub/deep/d.gif"]
    assert names([tmp_path / "sub", tmp_path / "b.png", tmp_path / "b.png"]) == [
        "sub/c.webp",
        "sub/deep/d.gif",
        "b.png",
    ]
    assert names(f"{tmp_path}/*.png") == ["b.png"]
    assert names(f"{tmp_path}/**/*.*") == ["a.JPG", "b.png", "sub/c.webp", "sub/deep/d.gif"]
    assert names([tmp_path / "note.txt"]) == ["note.txt"]  # named by hand: opening it will say what it is
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "gone.png", f"{tmp_path}/*.bmp", []):
        with pytest.raises(ImageError):
            find_images(nothing)


# Saving -----------------------------------------------------------------------------------------------------------

METADATA = {"prompt": "a large fox, ünïcode 狐 🦊\nsecond line", "seed": "7"}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".PNG"])
def test_saving_keeps_picture_and_metadata(suffix, tmp_path):
    path = tmp_path / f"fox{suffix}"
    save_image(gradient(), path, METADATA)
    assert read_metadata(path) == METADATA
    difference = np.abs(pixels(open_image(path)) - pixels(gradient()))
    assert difference.max() == 0 if suffix.lower() == ".png" else difference.mean() < 6
    save_image(gradient(8, 8), path)  # over the old one, without metadata
    assert read_metadata(path) == {}
    assert open_image(path).size == (8, 8)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_metadata_of_other_programs(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "a fox\nSteps: 20".encode("utf-16-be")
    gradient().save(tmp_path / "a1111.jpg", exif=exif)
    assert read_metadata(tmp_path / "a1111.jpg") == {"parameters": "a fox\nSteps: 20"}
    gradient().save(tmp_path / "bare.jpg")
    assert read_metadata(tmp_path / "bare.jpg") == {}
    (tmp_path / "text.png").write_text("no picture")
    for name in ("text.png", "gone.png"):
        with pytest.raises(ImageError, match=name):
            read_metadata(tmp_path / name)


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder.png").mkdir()
    for path in ("gone/fox.png", "file/fox.png", "folder.png", "fox.bmp", "fox", "x" * 300 + ".png", "f\0x.png"):
        with pytest.raises(OutputError) as error:
            save_image(gradient(), tmp_path / path)
        assert str(error.value).endswith(".")
        assert "\n" not in str(error.value)
    with pytest.raises(OutputError, match="does not exist"):
        check_writable(tmp_path / "gone" / "out.npz")
    assert check_writable(tmp_path / "out.npz") == tmp_path / "out.npz"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.png"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "fox.png"
    save_image(gradient(), path)
    before = path.read_bytes()

    def half_a_picture(self, file, **options):
        file.write(b"\x89PNG")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half_a_picture)
    with pytest.raises(OutputError, match="No space left"):
        save_image(gradient(), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["fox.png"]
    monkeypatch.undo()
    with pytest.raises(OutputError, match="EXIF"):
        save_image(gradient(), tmp_path / "long.jpg", {"prompt": "fox " * 50_000})
    assert [file.name for file in tmp_path.iterdir()] == ["fox.png"]


def test_importing_leaves_pillow_alone():
    from PIL import ImageFile

    assert images.MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
