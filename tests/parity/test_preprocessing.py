"""ImageTransform against transformers' PIL processors, to_pil and from_pil against diffusers: to the last bit."""

import json

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from eyesel.errors import CheckpointError, ImageError, SettingError
from eyesel.images import ImageTransform, from_pil, to_pil

PROCESSORS = {
    "ViT": ViTImageProcessorPil,
    "DeiT": DeiTImageProcessorPil,
    "Beit": BeitImageProcessorPil,
    "CLIP": CLIPImageProcessorPil,
    "Bit": BitImageProcessorPil,
    "Siglip": SiglipImageProcessorPil,
    "ConvNext": ConvNextImageProcessorPil,
}


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,)}[mode]
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(noise, mode)


PICTURES = [picture(50, 37), picture(37, 50, seed=1), picture(31, 31, seed=2), picture(7, 90, seed=3)]


def config(kind: str, **values) -> dict:
    return {"feature_extractor_type" if kind.endswith("Extractor") else "image_processor_type": kind, **values}


HALF = [0.5, 0.5, 0.5]
OF_2021 = {"do_normalize": True, "do_resize": True, "image_mean": HALF, "image_std": HALF, "resample": 2, "size": 24}
CONFIGS = [
    config("ViTFeatureExtractor", **OF_2021),
    config("ViTImageProcessor", size={"height": 20, "width": 28}, do_convert_rgb=None),
    config("ViTImageProcessorFast", size={"height": 32, "width": 32}, resample=3),
    config("ViTImageProcessor", size={"shortest_edge": 25}, do_center_crop=True, crop_size=18),
    config("ViTImageProcessor", size=16, image_mean=[0.485, 0.456, 0.406], image_std=0.23),
    config("ViTImageProcessor", size=16, do_rescale=False),
    config("ViTImageProcessor", size=16, do_normalize=False, rescale_factor=0.00784313725490196),
    config("ViTImageProcessor", do_resize=False, do_center_crop=True, crop_size=41),
    config("DeiTFeatureExtractor", size=29, crop_size=24),
    config("DeiTImageProcessor"),
    config("BeitImageProcessor", size=23, crop_size={"height": 9, "width": 14}, do_center_crop=True),
    config("CLIPFeatureExtractor", size=21, crop_size=21),
    config("CLIPImageProcessor", size={"shortest_edge": 20}, crop_size={"height": 33, "width": 33}),
    config("BitImageProcessor"),
    config("SiglipImageProcessor", size={"height": 19, "width": 19}),
    config("ConvNextFeatureExtractor", size=24, crop_pct=0.9),
    config("ConvNextImageProcessor", size={"shortest_edge": 20}, image_mean=HALF, resample=2),
    config("ConvNextImageProcessor"),
    config("ViTImageProcessorPil", size=[20, 28], crop_pct=None),
    *(config("ViTImageProcessor", size=17, resample=code) for code in range(6)),
]


def reference(config: dict, images: list[Image.Image]) -> torch.Tensor:
    kind = config.get("image_processor_type", config.get("feature_extractor_type"))
    family = next(name for name in PROCESSORS if kind.startswith(name))
    processor = PROCESSORS[family](**{key: value for key, value in config.items() if not key.endswith("_type")})
    return processor([image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"].float()


@pytest.mark.parametrize("config", CONFIGS, ids=[str(number) for number in range(len(CONFIGS))])
def test_equals_transformers_bit_for_bit(config):
    for image in PICTURES:  # one by one, since some configurations keep the shape
        ours = ImageTransform.from_config(config)([image])
        assert ours.dtype == torch.float32
        assert torch.equal(ours, reference(config, [image]))


def test_a_batch_is_the_pictures_one_by_one():
    transform = ImageTransform.from_config(CONFIGS[1])
    assert torch.equal(transform(PICTURES), torch.cat([transform([image]) for image in PICTURES]))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_other_modes_equal_transformers_with_conversion(mode):
    image = picture(40, 30, mode)
    theirs = ViTImageProcessorPil(size={"height": 16, "width": 16}, do_convert_rgb=True)(image, return_tensors="pt")
    assert torch.equal(ImageTransform(size=(16, 16))([image]), theirs["pixel_values"])


@pytest.mark.parametrize("config", CONFIGS, ids=[str(number) for number in range(len(CONFIGS))])
def test_what_we_save_reads_back_here_and_in_transformers(config):
    transform = ImageTransform.from_config(config)
    saved = json.loads(json.dumps(transform.to_config()))
    again = ImageTransform.from_config(saved)
    assert torch.equal(again([PICTURES[0]]), transform([PICTURES[0]]))
    assert torch.equal(reference(saved, [PICTURES[0]]), transform([PICTURES[0]]))


def test_with_size():
    assert ImageTransform(size=(224, 224)).with_size(32, 48).output_size == (32, 48)
    deit = ImageTransform(size=(256, 256), crop=(224, 224)).with_size(112, 112)
    assert (deit.size, deit.crop) == ((128, 128), (112, 112))
    clip = ImageTransform(size=256, crop=(224, 224)).with_size(448, 224)
    assert (clip.size, clip.crop) == (512, (448, 224))
    assert clip([picture(30, 20)]).shape == (1, 3, 448, 224)
    assert ImageTransform(size=24).output_size is None


def test_the_view_is_what_the_model_sees():
    transform = ImageTransform(size=30, crop=(20, 26))
    view = transform.view(PICTURES[0])
    assert view.size == (26, 20)
    assert np.array_equal(np.asarray(to_pil(transform([PICTURES[0]]))[0]), np.asarray(view))


TIMM = {"input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.9, "mean": HALF, "std": [0.25, 0.5, 0.5]}


def timm_by_hand(cfg: dict, image: Image.Image) -> torch.Tensor:
    """timm's transforms_imagenet_eval, with torchvision's Resize and CenterCrop written out."""
    (_, height, width), pct = cfg["input_size"], cfg["crop_pct"]
    scaled = int(height / pct), int(width / pct)
    if cfg.get("crop_mode") == "squash":
        size = scaled[::-1]
    else:
        short, long = sorted(image.size)
        longer = int(scaled[0] * long / short)
        size = (scaled[0], longer) if image.width <= image.height else (longer, scaled[0])
    resized = np.asarray(image.resize(size, Image.Resampling[cfg["interpolation"].upper()]))
    top, left = round((size[1] - height) / 2.0), round((size[0] - width) / 2.0)
    cut = torch.from_numpy(resized[top : top + height, left : left + width].copy()).permute(2, 0, 1)
    mean, std = (torch.tensor(cfg[key])[:, None, None] for key in ("mean", "std"))
    return ((cut.float().div(255) - mean) / std)[None]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"crop_pct": 1.0, "interpolation": "bilinear"},
        {"crop_mode": "center", "crop_pct": 0.8},
        {"crop_mode": "squash"},
        {"crop_mode": "squash", "crop_pct": 1.0, "input_size": [3, 24, 40]},
    ],
)
def test_timm(change):
    cfg = {**TIMM, **change}
    transform = ImageTransform.from_config({"architecture": "vit_tiny_patch16_224", "pretrained_cfg": cfg})
    assert ImageTransform.from_config(cfg) == transform
    for image in PICTURES:
        assert (transform([image]) - timm_by_hand(cfg, image)).abs().max() <= 1e-6
    again = ImageTransform.from_config(json.loads(json.dumps(transform.to_timm())))
    assert torch.equal(again([PICTURES[0]]), transform([PICTURES[0]]))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("interpolation", "random"),
        ("crop_mode", "border"),
        ("crop_pct", 0),
        ("crop_pct", 2**40),
        ("crop_pct", 1e-300),
        ("input_size", [3, 32]),
        ("input_size", [3, 32, 48]),
    ],
)
def test_malformed_values_of_timm_are_named(key, value):
    with pytest.raises(CheckpointError, match=key):
        ImageTransform.from_config({"pretrained_cfg": {**TIMM, key: value}})


@pytest.mark.parametrize("size", range(20, 60))
def test_any_crop_is_one_of_timm(size):
    transform = ImageTransform(size=size, crop=(19, 19), crop_to_even=True)
    assert ImageTransform.from_config(transform.to_timm()) == transform


def test_what_timm_cannot_do_is_refused():
    for transform in (
        ImageTransform(size=None),
        ImageTransform(size=24),
        ImageTransform(size=40, crop=(20, 30)),
        ImageTransform(size=(40, 60), crop=(40, 30)),
    ):
        with pytest.raises(SettingError, match="timm cannot"):
            transform.to_timm()
    raw = ImageTransform(size=(20, 20), scale=None, mean=None, std=None)
    assert (ImageTransform.from_config(raw.to_timm())(PICTURES[:1]) - raw(PICTURES[:1])).abs().max() <= 1e-4


def test_a_share_that_transformers_ignores_is_said():
    with pytest.warns(UserWarning, match="crop_pct 0.875 means nothing to a ViTImageProcessor"):
        transform = ImageTransform.from_config({"image_processor_type": "ViTImageProcessor", "crop_pct": 0.875})
    assert transform == ImageTransform()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resample", 6),
        ("resample", "bicubic"),
        ("resample", True),
        ("size", {"longest_edge": 30}),
        ("size", 0),
        ("size", "big"),
        ("size", [3.5]),
        ("image_mean", [0.5, 0.5]),
        ("image_mean", "half"),
        ("image_std", [0.5, 0.0, 0.5]),
        ("image_std", [0.5, float("nan"), 0.5]),
        ("rescale_factor", "1/255"),
        ("rescale_factor", float("inf")),
        ("do_resize", "yes"),
        ("do_pad", True),
        ("image_processor_type", "LevitImageProcessor"),
    ],
)
def test_malformed_values_are_named(key, value):
    with pytest.raises(CheckpointError) as error:
        ImageTransform.from_config({"image_processor_type": "ViTImageProcessor", key: value})
    assert key in str(error.value)
    assert repr(value) in str(error.value)


def test_a_batch_of_different_sizes_is_refused():
    with pytest.raises(ImageError, match="50x37, 37x50"):
        ImageTransform(size=None)([picture(50, 37), picture(37, 50)])
    with pytest.raises(ImageError):
        ImageTransform()([])


def test_to_pil_equals_diffusers():
    x = torch.randn(2, 3, 40, 24, generator=torch.Generator().manual_seed(0)) * 0.8
    x[0, 0, 0, :8] = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0, 1 / 255, 0.5 / 255 * 2 - 1, 1.5 / 255 * 2 - 1])
    for dtype in (torch.float32, torch.bfloat16):
        for ours, theirs in zip(to_pil(x.to(dtype)), VaeImageProcessor().postprocess(x.to(dtype)), strict=True):
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_from_pil_equals_diffusers_and_survives_the_round_trip():
    images = [picture(24, 40), picture(24, 40, seed=1)]
    ours = from_pil(images)
    assert torch.equal(ours, VaeImageProcessor(do_resize=False).preprocess(images))
    for before, after in zip(images, to_pil(ours), strict=True):
        assert np.array_equal(np.asarray(before), np.asarray(after))
    with pytest.raises(ImageError, match="24x40, 40x24"):
        from_pil([picture(24, 40), picture(40, 24)])
