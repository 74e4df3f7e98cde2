"""The maps of the bundled classifier are true: on compositions that it has not been trained on, not on any picture."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eyesel import ImageClassifier, open_image
from eyesel.nn.replica import replica
from eyesel.taps.faithfulness import area, curve
from eyesel.weights.hub import ASSETS

SHEET = Path(__file__).parents[1] / "data" / "compositions.png"  # recipes/tiny/attention.py --compositions
SIDE = 32


@pytest.fixture(scope="module")
def eye():
    return ImageClassifier.load("tiny", precision="float32")


@pytest.fixture(scope="module")
def pictures():
    with Image.open(SHEET) as page:
        corners = [(x, y) for y in range(0, page.height, SIDE) for x in range(0, page.width, SIDE)]
        return [page.crop((x, y, x + SIDE, y + SIDE)).convert("RGB") for x, y in corners]


@pytest.fixture(scope="module")
def pixels(eye, pictures):
    return eye.transform(pictures)


@pytest.fixture(scope="module")
def score(eye, pixels):
    with torch.inference_mode():
        classes = eye.model(pixels).argmax(-1, keepdim=True)

    @torch.inference_mode()
    def probability(x):
        return eye.model(x).softmax(-1).gather(1, classes)[:, 0]

    return probability


def heats(eye, pictures, method, **settings):
    return torch.stack([answer.heat for answer in eye.attention(pictures, method, **settings)])


def ranks(heat):
    return heat.flatten(1).argsort(1).argsort(1).double()


def rank_correlation(a, b):
    """Spearman's, in the mean over the pictures."""
    return np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(ranks(a), ranks(b), strict=True)])


@pytest.mark.parametrize(("method", "least"), [("rollout", 0.65), ("gradient-rollout", 0.6), ("attention", 0.45)])
def test_maps_lie_on_the_object(eye, pictures, method, least):
    objects = []
    for picture in pictures:
        values = np.asarray(picture, float)
        outside = np.abs(values - np.median(values[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0)).max(-1) > 40
        objects.append(outside.reshape(8, 4, 8, 4).mean((1, 3)))
    objects = torch.tensor(np.stack(objects))
    assert objects.mean() < 0.35
    heat = heats(eye, pictures, method)
    assert ((heat * objects).sum((1, 2)) / heat.sum((1, 2))).mean() > least


@pytest.fixture(scope="module")
def areas(pixels, score):
    """Under the deletion and the insertion curve of heat, in the mean over the pictures."""
    blank = pixels.mean((2, 3), keepdim=True)
    return lambda heat: [area(curve(score, pixels, blank, heat, 4, insertion)).mean() for insertion in (False, True)]


@pytest.fixture(scope="module")
def chance(areas):
    return areas(torch.rand(32, 8, 8, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("method", "lower", "higher"),
    [("rollout", 0.35, 0.2), ("gradient-rollout", 0.35, 0.15), ("attention", 0.2, 0.0), ("gradcam", 0.02, -1)],
)
def test_curves_beat_chance(eye, pictures, areas, chance, method, lower, higher):
    """Grad-CAM only just does: in so small a model, patch tokens of the last layer say little about their place."""
    deletion, insertion = areas(heats(eye, pictures, method))
    assert deletion < chance[0] - lower
    assert insertion > chance[1] + higher


@pytest.mark.parametrize("method", ["rollout", "gradient-rollout", "gradcam"])
def test_a_random_model_loses_the_map(eye, pictures, method):
    generator = torch.Generator().manual_seed(0)

    def shuffled(name, weight):
        return weight.flatten()[torch.randperm(weight.numel(), generator=generator)].view_as(weight)

    random = ImageClassifier(replica(eye.model, shuffled), eye.transform, eye.labels)
    rounded = ImageClassifier(replica(eye.model, lambda _, w: w.bfloat16()), eye.transform, eye.labels)
    target = {} if method == "rollout" else {"target": "fox"}
    maps = [heats(each, pictures, method, **target) for each in (eye, random, rounded)]
    assert abs(rank_correlation(maps[0], maps[1])) < 0.4
    assert rank_correlation(maps[0], maps[2]) > 0.95


@pytest.mark.parametrize("method", ["gradient-rollout", "gradcam"])
def test_the_map_depends_on_the_head(eye, pictures, method):
    """With another class's weights in the head, the map of a class is another's: what is shown is the class."""
    swapped = replica(eye.model, lambda name, w: w.roll(1, 0) if name.startswith("classifier") else w)
    other = ImageClassifier(swapped, eye.transform, eye.labels)
    fox = eye.labels.index("fox")
    assert torch.equal(heats(other, pictures[:4], method, target=fox + 1), heats(eye, pictures[:4], method, target=fox))


def left_shares(eye, left, right, labels):
    """Of two pictures side by side: how much of the map of each of two classes lies on the left one."""
    both = Image.new("RGB", (left.width + right.width, left.height))
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    wide = ImageClassifier(eye.model, eye.transform.with_size(SIDE, 2 * SIDE), eye.labels)
    maps = [wide.attention(both, "gradient-rollout", target=label).heat for label in labels]
    return [(heat[:, :8].sum() / heat.sum()).item() for heat in maps]


@pytest.mark.parametrize("labels", permutations(["fox", "owl", "rocket"], 2), ids=" ".join)
def test_a_class_is_found_where_its_object_is(eye, labels):
    pictures = [open_image(ASSETS / "tiny" / "examples" / f"{label}.png") for label in labels]
    of_left, of_right = left_shares(eye, *pictures, labels)
    assert of_left > of_right + 0.1


def test_most_classes_are_found(eye, pictures):
    labels = [best.label for (best,) in eye.classify(pictures, top_k=1)]
    pairs = [slice(i, i + 2) for i in range(len(pictures) - 1)]
    of_left, of_right = np.array([left_shares(eye, *pictures[pair], labels[pair]) for pair in pairs]).T
    assert np.mean(of_left > of_right) >= 0.7
    assert np.mean(of_left - of_right) > 0.1
