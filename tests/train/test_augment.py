"""Augmentation: within the picture, by the published formulas, and the same for the same sample whenever it comes."""

import numpy as np
import pytest
import torch
from PIL import Image

from eyesel.errors import SettingError
from eyesel.images import ImageTransform
from eyesel.train.augment import Augmentation, crop_box, cutmix, mixup, rand_augment
from eyesel.train.batches import Collate, LabelledPictures
from eyesel.train.draws import Draw, Shuffled, generator
from eyesel.train.pictures import opened
from eyesel.train.splits import Split


def noise(width=40, height=30, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(40, 30), (500, 20), (20, 500), (1, 1)])
def test_crops_are_in_the_picture_and_as_large_as_they_shall_be(size):
    chance = np.random.default_rng(0)
    for _ in range(200):
        left, top, right, bottom = crop_box(size, 0.3, chance)
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        if size == (40, 30):
            area, ratio = (right - left) * (bottom - top) / 1200, (right - left) / (bottom - top)
            assert 0.25 < area <= 1 and 0.7 < ratio < 1.4


def test_mixtures():
    chance = np.random.default_rng(1)
    first, second = torch.zeros(4, 3, 16, 24), torch.ones(4, 3, 16, 24)
    mixed, share = mixup(first, second, 0.7, chance)
    assert share == 0.7 and torch.allclose(mixed, torch.full_like(mixed, 0.3))
    for _ in range(50):
        mixed, share = cutmix(first, second, float(chance.beta(1, 1)), chance)
        assert abs(mixed.mean().item() - (1 - share)) < 1e-6
    augmentation = Augmentation(mixup=0.2, cutmix=1.0)
    pixels, labels = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    for seed in range(20):
        mixed, shares = augmentation.batch(pixels, labels, 4, np.random.default_rng(seed))
        assert torch.allclose(shares.sum(1), torch.ones(4))
        assert torch.allclose(mixed.mean((1, 2, 3)), shares @ torch.arange(4.0), atol=1e-5)  # pixels are their labels


def test_operations():
    image = noise()
    found = [rand_augment(image, 20, np.random.default_rng(seed)) for seed in range(60)]
    assert all(each.size == image.size and each.mode == "RGB" for each in found)
    assert len({each.tobytes() for each in found}) >= 15
    again = [rand_augment(image, 20, np.random.default_rng(seed)) for seed in range(60)]
    assert [each.tobytes() for each in again] == [each.tobytes() for each in found]


def split(count=6):
    pictures, _, _ = opened([noise(seed=i) for i in range(count)])
    return Split(pictures, [str(i) for i in range(count)], [i % 2 for i in range(count)])


def test_a_sample_does_not_depend_on_what_came_before():
    augmentation = Augmentation(crop=0.3, rand_augment=2)
    data = LabelledPictures(split(), (16, 16), 2, augmentation, seed=5)
    first = data[Draw(3, 4)].image.tobytes()
    for number in range(6):
        data[Draw(0, number)]
    assert data[Draw(3, 4)].image.tobytes() == first
    assert data[Draw(2, 4)].image.tobytes() != first
    order = list(Shuffled(6, 5))
    assert sorted(draw.number for draw in order) == list(range(6)) and order == list(Shuffled(6, 5))
    later = Shuffled(6, 5)
    later.set_epoch(1)
    assert [draw.number for draw in later] != [draw.number for draw in order]
    assert generator(1, 2).random() != generator(1, 3).random()


def test_validation_is_inference():
    """Whatever is drawn in training, validation sees what `ImageTransform` makes of the picture."""
    transform = ImageTransform(size=20, crop=(16, 16), resample=3)
    augmentation = Augmentation(crop=0.3, rand_augment=2, mixup=1.0)
    data = LabelledPictures(split(), (16, 16), 3, augmentation, seed=5)
    collate = Collate(transform, augmentation, 2, seed=5)
    batch = collate([data[i] for i in range(6)])
    assert torch.equal(batch["pixel_values"], transform([noise(seed=i) for i in range(6)]))
    assert batch["labels"].tolist() == [0, 1, 0, 1, 0, 1]
    training = collate([data[Draw(0, i)] for i in range(6)])
    assert training["pixel_values"].shape == (6, 3, 16, 16) and training["labels"].shape == (6, 2)
    plain = Collate(transform, Augmentation(crop=1, flip=False), 2, seed=5)
    untouched = LabelledPictures(split(), (16, 16), 3, Augmentation(crop=1, flip=False), seed=5)
    assert torch.equal(plain([untouched[Draw(0, i)] for i in range(6)])["pixel_values"], batch["pixel_values"])


@pytest.mark.parametrize(
    "change", [{"crop": 0.0}, {"crop": 1.5}, {"mixup": -1.0}, {"rand_augment": -1}, {"rand_magnitude": 31}]
)
def test_bad_settings(change):
    with pytest.raises(SettingError, match=next(iter(change))):
        Augmentation(**change)
