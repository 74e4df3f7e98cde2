"""scikit-learn's handwritten digits (Alpaydin & Kaynak 1998, UCI) as a folder of pictures to fine-tune a classifier on.

1,797 grey pictures of 8x8 pixels and ten classes lie in train/, validation/ and test/, 70, 10 and 20 % of each class:

    python recipes/digits.py --output .runs/digits
    eyesel train classifier .runs/digits --output .runs/digits-classifier --no-flip --crop 0.7 ...
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SHARES = {"test": 0.2, "validation": 0.1}


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
                Image.fromarray(grey).save(place / f"{number:04}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    write_digits(parser.parse_args().output)


if __name__ == "__main__":
    main()
