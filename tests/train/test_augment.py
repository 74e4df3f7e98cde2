"""Augmentation: within the picture, by the published formulas, and the same for the same sample whenever it comes."""

import numpy as np
import pytest
import torch
from PIL import Image

from eyesel.errors import SettingError
from eyesel.images import ImageTransform
from eyesel.train.augment import Augmentation, crop_box, cutmix, mixup, rand_augment
from eyesel.train.batches import Augmented, Collate, Seen, needed_side
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
    data = Augmented(split(), ImageTransform(16), (16, 16), Augmentation(crop=0.3, rand_augment=2), seed=5)
    first = data[Draw(3, 4)].view.tobytes()
    for number in range(6):
        data[Draw(0, number)]
    assert data[Draw(3, 4)].view.tobytes() == first
    assert data[Draw(2, 4)].view.tobytes() != first
    order = list(Shuffled(6, 5))
    assert sorted(draw.number for draw in order) == list(range(6)) and order == list(Shuffled(6, 5))
    later = Shuffled(6, 5)
    later.set_epoch(1)
    assert [draw.number for draw in later] != [draw.number for draw in order]
    assert generator(1, 2).random() != generator(1, 3).random()


@pytest.mark.parametrize("keep", [0, 3 * 4 * 16 * 16, 1 << 20])
def test_validation_is_inference(keep):
    """Whatever is drawn in training, validation sees what `ImageTransform` makes of the picture, held or not."""
    transform = ImageTransform(size=20, crop=(16, 16), resample=3)
    augmentation = Augmentation(crop=0.3, rand_augment=2, mixup=1.0)
    collate = Collate(transform, augmentation, 2, seed=5)
    seen = Seen(split(), transform, keep)
    assert seen.size == min(keep, 6 * 4 * 16 * 16)
    batch = collate([seen[i] for i in range(6)])
    assert torch.equal(batch["pixel_values"], transform([noise(seed=i) for i in range(6)]))
    assert batch["labels"].tolist() == [0, 1, 0, 1, 0, 1]
    data = Augmented(split(), transform, (16, 16), augmentation, seed=5)
    training = collate([data[Draw(0, i)] for i in range(6)])
    assert training["pixel_values"].shape == (6, 3, 16, 16) and training["labels"].shape == (6, 2)
    plain = Collate(transform, Augmentation(crop=1, flip=False), 2, seed=5)
    untouched = Augmented(split(), transform, (16, 16), Augmentation(crop=1, flip=False), seed=5)
    assert torch.equal(plain([untouched[Draw(0, i)] for i in range(6)])["pixel_values"], batch["pixel_values"])


def photograph(path, size, kind):
    """Blots of colour."""
    blots = np.random.default_rng(0).integers(0, 256, (size[1] // 60, size[0] // 60, 3), dtype=np.uint8)
    Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC).save(path, kind, quality=95)
    return path


@pytest.mark.parametrize(("kind", "size"), [("JPEG", (640, 480)), ("JPEG", (500, 375)), ("PNG", (640, 480))])
@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(crop=1)])
def test_large_pictures_are_reduced_for_training_alone(tmp_path, kind, size, augmentation):
    """A crop of the reduced picture looks like that part of the whole one; memory has no say in what is read."""
    transform = ImageTransform(size=(16, 16))
    path = photograph(tmp_path / "picture", size, kind)
    side = needed_side(transform, augmentation, (16, 16))
    held, free = (opened([path], keep=keep, at_least=side)[0] for keep in (1 << 30, 0))
    assert held.size and not free.size
    assert held[0].tobytes() == free[0].tobytes()
    small, large = held[0], held.whole()[0]
    assert side <= min(small.size) < 2 * side and large.size == size and not held.whole().size
    share = round(large.width / small.width)
    assert small.size == tuple(pixels // share for pixels in size)
    for seed in range(20):
        box = crop_box(small.size, augmentation.crop, np.random.default_rng(seed))
        one = np.asarray(small.resize((16, 16), Image.Resampling.BILINEAR, box), float)
        same = [share * edge for edge in box]
        other = np.asarray(large.resize((16, 16), Image.Resampling.BILINEAR, same), float)
        assert np.abs(one - other).mean() < 1


def test_the_smallest_crop_has_as_many_pixels_as_are_read():
    for crop in (0.02, 0.08, 0.5):
        augmentation = Augmentation(crop=crop)
        side = needed_side(ImageTransform(), augmentation, (64, 48))
        assert side >= 4 * 64
        for seed in range(300):
            left, top, right, bottom = crop_box((side, side), crop, np.random.default_rng(seed))
            assert min(right - left, bottom - top) >= 63  # rounded
    assert needed_side(ImageTransform(size=None), Augmentation(crop=1), (64, 48)) is None


@pytest.mark.parametrize(
    "change", [{"crop": 0.0}, {"crop": 1.5}, {"mixup": -1.0}, {"rand_augment": -1}, {"rand_magnitude": 31}]
)
def test_bad_settings(change):
    with pytest.raises(SettingError, match=next(iter(change))):
        Augmentation(**change)
