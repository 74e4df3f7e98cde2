"""Titled pictures on one white page."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

MARGIN, TITLE = 16, 16  # pixels between pictures, and the height of the letters over them


def sheet(rows: Sequence[Sequence[tuple[str, Image.Image]]], side: int = 320) -> Image.Image:
    """Rows of (title, picture) as one page; the longer side of every picture becomes `side` pixels.

    Small pictures are enlarged without smoothing. Columns are as wide as what is widest in them, title or picture.
    """
    font = ImageFont.load_default(TITLE)
    fitted = [[(title, _fitted(picture, side)) for title, picture in row] for row in rows]
    widths = [
        max(max(picture.width, round(font.getlength(title))) for title, picture in column)
        for column in _columns(fitted)
    ]
    heights = [max(picture.height for _, picture in row) for row in fitted]
    line = TITLE + MARGIN // 2
    size = (
        MARGIN + sum(width + MARGIN for width in widths),
        MARGIN + sum(height + line + MARGIN for height in heights),
    )
    page = Image.new("RGB", size, "white")
    draw, y = ImageDraw.Draw(page), MARGIN
    for row, height in zip(fitted, heights, strict=True):
        x = MARGIN
        for (title, picture), width in zip(row, widths, strict=False):  # the last row may be shorter
            draw.text((x, y), title, "black", font)
            page.paste(picture, (x, y + line))
            x += width + MARGIN
        y += line + height + MARGIN
    return page


def _columns(rows: Sequence[Sequence[tuple[str, Image.Image]]]) -> list[list[tuple[str, Image.Image]]]:
    return [[row[i] for row in rows if i < len(row)] for i in range(max(map(len, rows)))]


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
