"""Sheets to look at: contents by styles, a row of strengths, and a slider between two pictures."""

import base64
import io
from collections.abc import Sequence

from PIL import Image

from eyesel.images import fitted

GAP = 6  # pixels between the pictures of a sheet
MOST_SIDE = 16_000  # pixels of a sheet: larger ones are made smaller


def sheet(rows: Sequence[Sequence[Image.Image | None]]) -> Image.Image:
    """Pictures in rows and columns on white, each in the middle of its cell; None leaves a cell empty."""
    pictures = [picture for row in rows for picture in row if picture is not None]
    width, height = (max(sides) for sides in zip(*(picture.size for picture in pictures), strict=True))
    most = max(len(row) for row in rows)
    page = Image.new("RGB", (most * (width + GAP) + GAP, len(rows) * (height + GAP) + GAP), "white")
    for j, row in enumerate(rows):
        for i, picture in enumerate(row):
            if picture is not None:
                left, top = (width - picture.width) // 2, (height - picture.height) // 2
                page.paste(picture, (GAP + i * (width + GAP) + left, GAP + j * (height + GAP) + top))
    page.thumbnail((MOST_SIDE, MOST_SIDE))
    return page


def grid(contents: list[Image.Image], styles: list[Image.Image], results: list[Image.Image]) -> Image.Image:
    """The results with their contents on the left and their styles on top, these no larger than the results."""
    most = max(picture.width for picture in results), max(picture.height for picture in results)
    heads, sides = ([_within(picture, most) for picture in pictures] for pictures in (styles, contents))
    rows = [results[i * len(styles) : (i + 1) * len(styles)] for i in range(len(contents))]
    return sheet([[None, *heads], *([side, *row] for side, row in zip(sides, rows, strict=True))])


def _within(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    scale = min(size[0] / picture.width, size[1] / picture.height)
    return fitted(picture, (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)))


SLIDER = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>before and after</title>
<style>
  body {{ margin: 0; min-height: 100vh; display: grid; place-content: center; background: #222 }}
  figure {{ position: relative; margin: 0; width: min(96vw, 96vh * {ratio}, {width}px) }}
  img {{ display: block; width: 100%; image-rendering: {rendering} }}
  img + img {{ position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at, 50%)) }}
  hr {{ position: absolute; inset: 0 auto 0 var(--at, 50%); width: 2px; margin: 0 -1px; border: 0; background: #fff;
    box-shadow: 0 0 3px #0008; pointer-events: none; overflow: visible }}
  hr::after {{ content: "\\2039\\2002\\203a"; position: absolute; top: 50%; left: 50%; width: 36px; height: 36px;
    border-radius: 50%; background: #fff; color: #222; font: 20px/32px sans-serif; text-align: center;
    transform: translate(-50%, -50%); box-shadow: 0 0 6px #0008 }}
  input {{ position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize;
    -webkit-appearance: none }}
  input::-webkit-slider-thumb {{ -webkit-appearance: none; width: 1px }} /* so that the line is under the pointer */
  input::-moz-range-thumb {{ width: 1px; border: 0 }}
  input:focus-visible ~ hr::after {{ outline: 3px solid #6bf }}
</style>
<figure>
  <img alt="before" src="data:image/png;base64,{before}">
  <img alt="after" src="data:image/png;base64,{after}">
  <input type="range" min="0" max="100" step="0.5" value="50" aria-label="how much of the picture before is seen"
    oninput="this.parentNode.style.setProperty('--at', this.value + '%')">
  <hr>
</figure>
</html>
"""


def slider(before: Image.Image, after: Image.Image) -> str:
    """A page of HTML that needs nothing else: the second picture lies over the first, as far as one pulls it."""
    small = before.width < 512
    return SLIDER.format(
        ratio=f"{before.width / before.height:.6g}",
        width=before.width * -(-512 // before.width) if small else before.width,
        rendering="pixelated" if small else "auto",
        before=_png(before),
        after=_png(after),
    )


def _png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
