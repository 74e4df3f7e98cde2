"""The fixed pictures that style transfer is measured on: 20 contents and 10 styles, painted and photographed."""

from pathlib import Path

from PIL import Image

from eyesel import StableDiffusion, open_image
from eyesel.images import fitted

SIDE = 64  # pixels
INSTALL = "python -m pip install scikit-image scikit-learn"

# file of scikit-image (data/) or scikit-learn (datasets/images/)
PHOTOGRAPHS = ("chelsea.png", "astronaut.png", "coffee.png", "rocket.jpg", "camera.png", "motorcycle_left.png")
MORE_PHOTOGRAPHS = ("coins.png", "horse.png", "china.jpg", "flower.jpg")
PAINTED = ("fox", "owl", "rocket", "panda", "strawberry", "cactus", "robot", "octopus", "mushroom", "pizza")
GROUNDS = ("blue", "yellow", "white", "green", "turquoise", "pink", "brown", "red", "purple", "black")

# each with the words for it that the bundled painter has, which image to image is told
STYLES = {
    "brick.png": "a small elephant on a white background",
    "grass.png": "a large cactus on a black background",
    "gravel.png": "a large mushroom on a white background",
    "ihc.png": "a large pizza on a white background",
    "retina.jpg": "a large strawberry on a black background",
    "hubble_deep_field.jpg": "a small ladybird on a black background",
}
PAINTED_STYLES = (
    "a large rose on a pink background",
    "a large parrot on a turquoise background",
    "a large butterfly on a purple background",
    "a large sunflower on a blue background",
)


def photograph(name: str, side: int = SIDE) -> Image.Image:
    """A picture that scikit-image or scikit-learn carries, cut to a square."""
    try:
        import skimage
        import sklearn.datasets
    except ImportError:
        raise SystemExit(f"The photographs are those of two packages: {INSTALL}") from None
    folders = (Path(skimage.__file__).parent / "data", Path(sklearn.datasets.__file__).parent / "images")
    path = next(folder / name for folder in folders if (folder / name).is_file())
    return fitted(open_image(path), (side, side), "crop")


def contents(easel: StableDiffusion) -> dict[str, Image.Image]:
    captions = [f"a large {thing} on a {ground} background" for thing, ground in zip(PAINTED, GROUNDS, strict=True)]
    return {name: photograph(name) for name in (*PHOTOGRAPHS, *MORE_PHOTOGRAPHS)} | _painted(easel, captions)


def styles(easel: StableDiffusion) -> dict[str, tuple[Image.Image, str]]:
    """Name -> picture and words."""
    painted = _painted(easel, PAINTED_STYLES)
    return {name: (photograph(name), words) for name, words in STYLES.items()} | {
        words: (picture, words) for words, picture in painted.items()
    }


def _painted(easel: StableDiffusion, captions: "list[str] | tuple[str, ...]") -> dict[str, Image.Image]:
    pictures = easel.generate(list(captions), seed=1)
    return {text: fitted(made.image, (SIDE, SIDE)) for text, made in zip(captions, pictures, strict=True)}
