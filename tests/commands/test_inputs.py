"""Pictures and models that cannot be used, whichever command is given them."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from command_line import files, refused


def png(width, height, data=b""):
    """A PNG of that size by its header, with hardly any pixels behind it."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data or bytes(1000)))
        + chunk(b"IEND", b"")
    )


def whole_png():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"not a picture", "picture"),
        (whole_png()[:2000], "x.png"),
        (png(50_000, 50_000), "50"),
    ],
    ids=["zero bytes", "text", "truncated", "bomb"],
)
@pytest.mark.parametrize("command", ["classify", "embed", "attend"])
def test_unreadable_pictures(run, classifier, tmp_path, command, content, word):
    (tmp_path / "x.png").write_bytes(content)
    output = [] if command == "classify" else ["-o", "out.npz" if command == "embed" else "out.png"]
    refused(run(command, tmp_path / "x.png", "-m", classifier, *output), word)
    assert files(tmp_path) == ["x.png"]


@pytest.mark.parametrize("command", ["classify", "attend"])
def test_pipes_and_devices_are_not_waited_for(run, classifier, tmp_path, command):
    os.mkfifo(tmp_path / "pipe.png")
    output = [] if command == "classify" else ["-o", "out.png"]
    for path in (tmp_path / "pipe.png", "/dev/zero"):
        refused(run(command, path, "-m", classifier, *output), "pipe or a device")
    refused(run(command, "a" * 300 + ".png", "-m", classifier, *output), "cannot be opened")


def test_missing_pictures_and_empty_folders(run, classifier, tmp_path):
    refused(run("classify", "none.png", "-m", classifier), "none.png")
    refused(run("classify", tmp_path, "-m", classifier), str(tmp_path))
    refused(run("classify", "https://example.com/fox.png", "-m", classifier), "download")


def test_the_wrong_kind_of_model(run, picture, classifier, painter, tmp_path):
    refused(run("classify", picture, "-m", painter), "Stable Diffusion")
    refused(run("generate", "a fox", "-m", classifier), "Vision Transformer")
    (tmp_path / "empty").mkdir()
    refused(run("classify", picture, "-m", tmp_path / "empty"), "empty")
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "vit"}')
    refused(run("classify", picture, "-m", tmp_path / "empty"), "weights")
    refused(run("models", "show", "tinny"), "tiny")
