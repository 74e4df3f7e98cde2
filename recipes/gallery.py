"""`docs/easel.png`: what the bundled painter makes of words, of pictures, and of parts of pictures."""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from eyesel import StableDiffusion

SIDE, GAP, TITLE = 128, 10, 30  # pixels of the sheet

Row = tuple[str, list[Image.Image]]


def sheet(rows: list[Row]) -> Image.Image:
    """Titled rows of pictures, all as high, on white."""
    shown = [
        (title, [p.resize((p.width * SIDE // p.height, SIDE), Image.Resampling.NEAREST) for p in row])
        for title, row in rows
    ]
    width = GAP + max(sum(picture.width + GAP for picture in row) for _, row in shown)
    page = Image.new("RGB", (width, len(rows) * (TITLE + SIDE) + GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    for i, (title, row) in enumerate(shown):
        x, y = GAP, i * (TITLE + SIDE)
        draw.text((x, y + TITLE / 2), title, "black", font, anchor="lm")
        for picture in row:
            page.paste(picture, (x, y + TITLE))
            x += picture.width + GAP
    return page


def side_by_side(pictures: list[Image.Image]) -> Image.Image:
    page = Image.new("RGB", (sum(p.width for p in pictures), pictures[0].height))
    for i, picture in enumerate(pictures):
        page.paste(picture, (sum(p.width for p in pictures[:i]), 0))
    return page


def gallery(easel: StableDiffusion) -> list[Row]:
    def paint(prompt: str, **settings: object) -> Image.Image:
        return easel.generate(prompt, **{"seed": 7, **settings}).image

    fox = paint("a large fox on a blue background")
    strengths = [0.08, 0.12, 0.16, 0.2, 0.3, 0.75]
    from_fox = [paint("a large owl on a blue background", image=fox, strength=s, steps=50, seed=1) for s in strengths]

    three = side_by_side(
        [fox, paint("a large owl on a blue background", seed=2), paint("a large rocket on a blue background", seed=5)]
    )
    middle = Image.new("L", three.size)
    middle.paste(255, (32, 0, 64, 32))
    turtle = easel.inpaint(
        three, middle, "a large turtle on a blue background", seed=0, only_masked=True, padding=0, mask_blur=0
    ).image

    twice = {"hires": 2.0, "hires_upscaler": "lanczos", "hires_strength": 0.06, "hires_steps": 50}
    passes = [
        paint(f"a large {thing}", **more)
        for thing in ("fox on a blue background", "strawberry on a white background", "rocket on a green background")
        for more in ({}, twice)
    ]
    return [
        (f"image to image: a fox becomes an owl, strength {', '.join(f'{s:g}' for s in strengths)}", [fox, *from_fox]),
        ("inpainting: the one in the middle is to be a turtle", [three, turtle]),
        ("two passes: 32 pixels wide, and 64", passes),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/easel.png"))
    output: Path = parser.parse_args().output
    sheet(gallery(StableDiffusion.load("tiny"))).save(output, optimize=True)
    print(output)


if __name__ == "__main__":
    main()
