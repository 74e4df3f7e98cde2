"""Contact sheets: pictures with the labels that a classifier gave them, on pages that a person can look over."""

import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import TracebackType
from typing import Literal

from PIL import Image, ImageDraw, ImageFont, ImageOps

from eyesel.errors import OutputError
from eyesel.images import WRITABLE, check_writable, save_image

Order = Literal["name", "worst", "best"]

SIDE, COLUMNS, ROWS = 192, 6, 5  # pixels of a picture's longer side; pictures on a page
_MARGIN, _LETTERS, _SMALL = 16, 17, 13
_PAPER, _TRAY, _INK, _FAINT, _WRONG, _BAR = "white", "#eeeeee", "black", "#666666", "#c62828", "#3f7fbf"


def check_sheet(path: str | Path, force: bool = False) -> Path:
    """`path`, if a sheet of however many pages can be written there."""
    path = check_writable(path, WRITABLE)
    there = [path, *path.parent.glob(f"{path.stem}-[0-9]*{path.suffix}")]
    for page in there:
        if page.exists() and not force:
            raise OutputError(f"{page} exists already: choose another name, or allow it to be replaced (--force).")
    return path


@dataclass(frozen=True)
class _Entry:
    name: str
    label: str
    score: float
    expected: str | None
    start: int  # of the small picture in the spool
    length: int

    @property
    def wrong(self) -> bool:
        return self.expected is not None and self.expected != self.label


class ContactSheet:
    """Collects pictures, small ones, in a temporary file, so that 100,000 of them need no memory to speak of.

    A picture in a folder that is called like one of `labels` is expected to be that. `percent`: scores are shares of 1.
    """

    def __init__(self, labels: Sequence[str], percent: bool = True) -> None:
        self._known: dict[str, str | None] = {}
        for label in labels:
            for word in {label.casefold(), *label.casefold().split(", ")}:
                self._known[word] = None if word in self._known else label  # None: a word for several
        self._percent = percent
        self._entries: list[_Entry] = []
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115

    def __enter__(self) -> "ContactSheet":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._spool.close()

    @property
    def empty(self) -> bool:
        return not self._entries

    def add(self, name: str, label: str, score: float, thumbnail: Image.Image) -> None:
        """A picture, its best label and the score of it."""
        start = self._spool.tell()
        thumbnail.save(self._spool, "PNG", compress_level=1)
        expected = self._known.get(PurePath(name).parent.name.casefold())
        self._entries.append(_Entry(name, label, score, expected, start, self._spool.tell() - start))

    def save(self, path: str | Path, order: Order = "name", force: bool = False) -> list[Path]:
        """Write the pages: sheet.png, or sheet-1.png and so on if there are several.

        `worst` starts with what is not what its folder says, the surest mistake first, and goes on from the lowest
        score to the highest; `best` is the other way round; `name` keeps the order of the pictures.
        """
        path = check_sheet(path, force)
        entries = self._entries
        if order != "name":
            entries = sorted(entries, key=_goodness, reverse=order == "best")
        pages = [entries[start : start + COLUMNS * ROWS] for start in range(0, len(entries), COLUMNS * ROWS)]
        paths = [path] if len(pages) == 1 else [path.with_stem(f"{path.stem}-{i + 1}") for i in range(len(pages))]
        for place, page in zip(paths, pages, strict=True):
            save_image(self._page(page), place)
        return paths

    def _page(self, entries: Sequence[_Entry]) -> Image.Image:
        columns, rows = min(COLUMNS, len(entries)), -(-len(entries) // COLUMNS)
        height = SIDE + 2 * _LETTERS + 3 * _SMALL // 2 + _MARGIN
        page = Image.new("RGB", (_MARGIN + columns * (SIDE + _MARGIN), _MARGIN + rows * height), _PAPER)
        draw = ImageDraw.Draw(page)
        for i, (entry, picture) in enumerate(zip(entries, self._pictures(entries), strict=True)):
            x, y = _MARGIN + i % COLUMNS * (SIDE + _MARGIN), _MARGIN + i // COLUMNS * height
            draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), _TRAY)
            page.paste(picture, (x + (SIDE - picture.width) // 2, y + (SIDE - picture.height) // 2))
            if entry.wrong:
                draw.rectangle((x - 4, y - 4, x + SIDE + 3, y + SIDE + 3), outline=_WRONG, width=4)
            self._words(draw, entry, x, y + SIDE)
        return page

    def _words(self, draw: ImageDraw.ImageDraw, entry: _Entry, x: int, y: int) -> None:
        """The score as a bar and a number, the label, and where the picture is."""
        large, small = ImageFont.load_default(_LETTERS), ImageFont.load_default(_SMALL)
        score = f"{entry.score:.1%}" if self._percent else f"{entry.score:.4g}"
        if self._percent:
            draw.rectangle((x, y + 6, x + SIDE - 1, y + 9), _TRAY)
            draw.rectangle((x, y + 6, x + round(entry.score * (SIDE - 1)), y + 9), _WRONG if entry.wrong else _BAR)
        room = SIDE - large.getlength(score) - 8
        draw.text((x, y + 13), _shortened(entry.label, large, room), _WRONG if entry.wrong else _INK, large)
        draw.text((x + SIDE - large.getlength(score), y + 13), score, _INK, large)
        path = PurePath(entry.name)
        place = f"{path.parent.name}/{path.name}" if entry.expected else path.name
        draw.text((x, y + 15 + 5 * _LETTERS // 4), _shortened(place, small, SIDE), _FAINT, small)

    def _pictures(self, entries: Sequence[_Entry]) -> Iterator[Image.Image]:
        for entry in entries:
            self._spool.seek(entry.start)
            picture = Image.open(io.BytesIO(self._spool.read(entry.length))).convert("RGB")
            enlarged = SIDE // max(picture.size)  # tiny pictures by whole numbers, so that they stay sharp
            if enlarged > 1:
                size = (picture.width * enlarged, picture.height * enlarged)
                yield picture.resize(size, Image.Resampling.NEAREST)
            else:
                yield ImageOps.contain(picture, (SIDE, SIDE), Image.Resampling.LANCZOS)


def _goodness(entry: _Entry) -> tuple[bool, float]:
    return (False, -entry.score) if entry.wrong else (True, entry.score)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "...") > room:
        text = text[:-1]
    return text + "..."
