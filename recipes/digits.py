"""scikit-learn's handwritten digits (Alpaydin & Kaynak 1998, UCI) as a folder of pictures to fine-tune a classifier on.

1,797 grey pictures of 8x8 pixels, enlarged, of ten classes lie in train/, validation/ and test/, 70, 10 and 20 % of
each class:

    python recipes/digits.py --output .runs/digits
    eyesel train classifier .runs/digits --output .runs/digits-classifier --no-flip --crop 0.7 --rand-augment 1 \\
        --rand-magnitude 8 --average 0.995 --learning-rate 1e-3 --num-train-epochs 36 --warmup-steps 40 \\
        --lr-scheduler-type cosine --per-device-train-batch-size 32 \\
        --per-device-eval-batch-size 64 --logging-steps 40

98.05 % of the test pictures are right after five minutes on one core; a support vector machine on the pixels reaches
98.3 %. A linear probe (`--tune head --crop 1 --learning-rate 3e-2 --num-train-epochs 20
--lr-scheduler-type cosine` instead of all that, one minute) stays at 78 %: all that the base has seen are emoji.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SHARES = {"test": 0.2, "validation": 0.1}
SIDE = 32  # pixels, four for each of the original: so that crops can move by less than one of those


def write_digits(folder: Path, seed: int = 0) -> None:
    digits = load_digits()
    chance = np.random.default_rng(seed)
    for label in range(10):
        numbers = chance.permutation(np.flatnonzero(digits.target == label))
        starts = {}
        first = 0
        for split, share in SHARES.items():
            starts[split] = numbers[first : first + round(share * len(numbers))]
            first += len(starts[split])
        starts["train"] = numbers[first:]
        for split, chosen in starts.items():
            place = folder / split / str(label)
            place.mkdir(parents=True, exist_ok=True)
            for number in chosen:
                grey = np.round(digits.images[number] * (255 / 16)).astype(np.uint8)
                picture = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                picture.save(place / f"{number:04}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    write_digits(parser.parse_args().output)


if __name__ == "__main__":
    main()
