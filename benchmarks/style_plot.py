"""A plot of content lost against style missing, drawn with Pillow alone."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, LEFT, BELOW, MARGIN = 900, 600, 90, 80, 30  # pixels
# where the labels of a curve's points stand, so that those of near curves do not meet: the shift and Pillow's anchor
PLACES = (((-9, 3), "rt"), ((9, 3), "lt"), ((9, -3), "lb"), ((9, -3), "lb"), ((2, -8), "mb"))
COLOURS = ("#c8362d", "#e08a2b", "#2f6db5", "#3a8f4f", "#7a5ba8")
Point = tuple[float, float]


def pareto(curves: Mapping[str, Sequence[Point]], labels: Mapping[str, Sequence[str]]) -> Image.Image:
    """Curves of points (content lost, style missing), each point with its label."""
    page = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font, small = ImageDraw.Draw(page), ImageFont.load_default(18), ImageFont.load_default(14)
    points = [point for curve in curves.values() for point in curve]
    right, top = max(x for x, _ in points) * 1.08, max(1.0, *(y for _, y in points)) * 1.04
    low = min(y for _, y in points) * 0.92

    def at(x: float, y: float) -> Point:
        across = (WIDTH - LEFT - MARGIN) * x / right
        return LEFT + across, MARGIN + (HEIGHT - BELOW - MARGIN) * (top - y) / (top - low)

    for i in range(6):
        x, y = right * i / 5, low + (top - low) * i / 5
        draw.line([at(x, low), at(x, top)], "#e4e4e4")
        draw.line([at(0, y), at(right, y)], "#e4e4e4")
        draw.text((at(x, low)[0], HEIGHT - BELOW + 6), f"{x:.2f}", "#555", small, anchor="ma")
        draw.text((LEFT - 8, at(0, y)[1]), f"{y:.2f}", "#555", small, anchor="rm")
    for (name, curve), colour, ((right_by, down_by), anchor) in zip(curves.items(), COLOURS, PLACES, strict=True):
        placed = [at(*point) for point in curve]
        draw.line(placed, colour, 3)
        for (x, y), label in zip(placed, labels[name], strict=True):
            draw.ellipse((x - 5, y - 5, x + 5, y + 5), colour)
            draw.text((x + right_by, y + down_by), label, colour, small, anchor=anchor)
    for i, (name, colour) in enumerate(zip(curves, COLOURS, strict=True)):
        draw.text((WIDTH - MARGIN - 12, MARGIN + 12 + 24 * i), name, colour, font, anchor="ra")
    draw.text(
        ((LEFT + WIDTH) / 2, HEIGHT - 14), "content lost (1 - SSIM, the eye's distance)", "black", font, anchor="mb"
    )
    side = Image.new("RGB", (HEIGHT, 30), "white")
    ImageDraw.Draw(side).text((HEIGHT / 2, 4), "style missing (the content itself: 1)", "black", font, anchor="ma")
    page.paste(side.rotate(90, expand=True), (4, 0))
    return page
