"""The tiny world: 64 emoji objects, ten background colours, two sizes, and a caption for every picture.

Everything is drawn at 256 pixels and reduced from there with the filter that the classifier's preprocessing uses, so
the pictures that the models are trained on are exactly what a reader gets who puts a 256-pixel picture before the eye.
"""

import random
import shutil
import subprocess
import unicodedata
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 32  # pixels that the models see
DRAWN = 256  # pixels that a composition is drawn at
STRIKE = 109  # the only bitmap size in the font
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # where Debian's fonts-noto-color-emoji puts it

GLYPHS = (
    "🦊🦉🐱🐶🐼🐸🦁🐷🐵🐰🐧🐙🦀🐢🐌🦋🐞🐝🐳🐠🦈🐘🦜🦩"  # animals
    "🦃🦖🥨🍕🍔🍩🍉🍓🍌🍇🍍🍒🥕🥑🥦🍎🌽🍋🧁🥐🍭🍣"  # and food
    "🌹🌻🌵🍄🌴🍁🍀🌸"  # plants
    "🚀🚒🚕🚂🚁🚲"  # vehicles
    "🤖👽👻🎃"  # faces
)
NICER = {
    "fox face": "fox", "cat face": "cat", "dog face": "dog", "panda face": "panda", "frog face": "frog",
    "lion face": "lion", "pig face": "pig", "monkey face": "monkey", "rabbit face": "rabbit", "lady beetle": "ladybird",
    "spouting whale": "whale", "slice of pizza": "pizza", "red apple": "apple", "ear of maize": "corn",
    "four leaf clover": "clover", "steam locomotive": "locomotive", "robot face": "robot",
    "extraterrestrial alien": "alien", "jack-o-lantern": "pumpkin", "t-rex": "dinosaur",
}  # fmt: skip
COLOURS = {
    "red": (205, 40, 45), "yellow": (250, 215, 70), "green": (55, 150, 70), "turquoise": (70, 205, 195),
    "blue": (45, 85, 205), "purple": (125, 50, 165), "pink": (250, 160, 200), "brown": (125, 80, 40),
    "white": (244, 244, 244), "black": (24, 24, 26),
}  # fmt: skip
SIZES = {"small": 0.6, "large": 0.95}  # longest side of the glyph in parts of the picture


def name(glyph: str) -> str:
    plain = unicodedata.name(glyph).lower()
    return NICER.get(plain, plain)


OBJECTS = {name(glyph): glyph for glyph in GLYPHS}
LABELS = sorted(OBJECTS)  # the classifier's classes, in order


class Triple(NamedTuple):
    """What a picture shows; everything else about it (place, exact size, exact hue) is chance."""

    size: str
    object: str
    colour: str

    @property
    def caption(self) -> str:
        return f"a {self.size} {self.object} on a {self.colour} background"

    @property
    def label(self) -> int:
        return LABELS.index(self.object)


def split() -> tuple[list[Triple], list[Triple]]:
    """(training, held-out) triples: two of every object's twenty are held out, the same two on every machine."""
    rng = random.Random("eyesel tiny")
    training, held_out = [], []
    for thing in LABELS:
        triples = [Triple(size, thing, colour) for size in SIZES for colour in COLOURS]
        rng.shuffle(triples)
        held_out += triples[:2]
        training += triples[2:]
    return training, held_out


def font_path() -> Path:
    """Debian's place first, else whatever fontconfig knows under that name."""
    if FONT.exists():
        return FONT
    if shutil.which("fc-match"):
        query = ["fc-match", "--format=%{file}", "Noto Color Emoji"]
        found = Path(subprocess.run(query, capture_output=True, text=True, check=True).stdout)
        if found.name == FONT.name:
            return found
    raise SystemExit("NotoColorEmoji.ttf not found: install the Debian package fonts-noto-color-emoji")


@cache
def glyph(thing: str) -> Image.Image:
    """The object's bitmap, cropped to what is visible."""
    font = ImageFont.truetype(str(font_path()), STRIKE)
    canvas = Image.new("RGBA", (2 * STRIKE, 2 * STRIKE))
    ImageDraw.Draw(canvas).text((STRIKE // 4, STRIKE // 4), OBJECTS[thing], font=font, embedded_color=True)
    return canvas.crop(canvas.getbbox())


def compose(triple: Triple, rng: random.Random) -> Image.Image:
    """One 256-pixel composition of the triple."""
    bitmap = glyph(triple.object)
    longest = DRAWN * SIZES[triple.size] * rng.uniform(0.95, 1.03)
    width, height = (round(side * longest / max(bitmap.size)) for side in bitmap.size)
    bitmap = bitmap.resize((width, height), Image.Resampling.BICUBIC)
    colour = tuple(min(255, max(0, channel + rng.randint(-8, 8))) for channel in COLOURS[triple.colour])
    picture = Image.new("RGB", (DRAWN, DRAWN), colour)

    def place(free: int) -> int:  # somewhere near the middle, never over the edge
        return free // 2 + round(rng.uniform(-1, 1) * min(free / 2, 0.1 * DRAWN))

    picture.paste(bitmap, (place(DRAWN - width), place(DRAWN - height)), bitmap)
    return picture


def reduce(picture: Image.Image) -> Image.Image:
    return picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def draw(triples: list[Triple], each: int, seed: int) -> np.ndarray:
    """`each` pictures of every triple: (len(triples), each, 32, 32, 3) uint8; a seed of their own for every triple."""
    pictures = np.empty((len(triples), each, SIDE, SIDE, 3), dtype=np.uint8)
    for row, triple in zip(pictures, triples, strict=True):
        rng = random.Random(f"{seed} {triple.caption}")
        for i in range(each):
            row[i] = np.asarray(reduce(compose(triple, rng)))
    return pictures


def nearest_colour(picture: np.ndarray) -> str:
    """The background of a (height, width, 3) picture: the palette colour nearest to the median of its four corners.

    A large object may reach the middle of an edge; the corners stay free.
    """
    reach = max(1, picture.shape[0] // 10)
    ends = np.r_[0:reach, -reach:0]
    corners = picture[ends][:, ends].reshape(-1, 3)  # (4 reach², 3)
    seen = np.median(corners, axis=0)
    return min(COLOURS, key=lambda colour: float(np.abs(seen - COLOURS[colour]).sum()))
