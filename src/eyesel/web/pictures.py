"""Pictures on their way to the page and back: files that keep how they were painted, views to paint masks on."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gradio.components import Component
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from eyesel.images import fitted
from eyesel.picture import Picture

SHOWN = 512  # pixels of the longer side that small pictures are enlarged to, about, to be painted on or slid over
MOST_SHOWN = 1024  # and that large ones are made smaller to


def kept(picture: Picture, where: Component, name: str) -> str:
    """The path of a PNG with its settings, which Gradio serves as it is and deletes in time; `name` is for people."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    name = f"{words or 'picture'}.png"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        picture.save(file)
        return save_bytes_to_cache(file.read_bytes(), name, where.GRADIO_CACHE)


def view(picture: Image.Image) -> Image.Image:
    """`picture` in a size that can be worked on: small ones by whole numbers, so that their pixels stay squares."""
    longest = max(picture.size)
    if longest <= SHOWN // 2:
        times = SHOWN // longest
        return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    if longest <= MOST_SHOWN:
        return picture
    scale = MOST_SHOWN / longest
    return fitted(picture, (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)))


def mask_of(layers: Sequence[Image.Image], size: tuple[int, int]) -> Image.Image | None:
    """What was painted on a view, as a mask in `size` (width, height): white wherever at least half is painted over.

    None if nothing was painted.
    """
    painted = [layer.convert("RGBA").getchannel("A").point(lambda alpha: 255 if alpha >= 16 else 0) for layer in layers]
    if not any(layer.getbbox() for layer in painted):
        return None
    whole = Image.new("L", painted[0].size)
    for layer in painted:
        whole.paste(255, mask=layer)
    return fitted(whole, size, resample=Image.Resampling.BOX)
