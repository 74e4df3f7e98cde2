"""`make demo`: paint a picture, classify it and a real one, and show what the classifier looked at."""

import argparse
from importlib.resources import files
from pathlib import Path

from eyesel import ImageClassifier, StableDiffusion, open_image
from eyesel.taps.sheet import sheet

PROMPT = "a large fox on a blue background"
REAL = files("eyesel") / "assets" / "tiny" / "examples" / "owl.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo"))
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)

    easel = StableDiffusion.load("tiny")
    painted = easel.generate(arguments.prompt, seed=arguments.seed)
    painted.save(folder / "painted.png", enlarge=8)
    print(f"painted {arguments.prompt!r} from seed {painted.seed}: {folder / 'painted.png'}")

    eye = ImageClassifier.load("tiny")
    real = open_image(REAL)
    real.save(folder / "real.png")
    cells = []
    for name, picture in {"painted": painted.image, "real": real}.items():
        predictions = eye.classify(picture, top_k=3)
        said = ", ".join(f"{p.label} {p.score:.0%}" for p in predictions)
        print(f"the classifier sees in {name}.png: {said}")
        overlay = eye.attention(picture).overlay()
        overlay.save(folder / f"{name}-attention.png")
        print(f"what it looked at: {folder / f'{name}-attention.png'}")
        cells += [
            (f"{name}: {predictions[0].label} {predictions[0].score:.0%}", picture),
            ("attention rollout", overlay),
        ]
    sheet([cells]).save(folder / "demo.png")
    print(f"all of it on one sheet: {folder / 'demo.png'}")


if __name__ == "__main__":
    main()
