"""What is asked of a model when it is looked into: which layers, which classes, and that it stays as it was."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from eyesel.classifier import ImageClassifier
from eyesel.errors import CheckpointError, SettingError
from eyesel.explain import METHODS, Question, explain
from eyesel.images import ImageTransform
from eyesel.models.vit import ViT, ViTConfig
from eyesel.nn.replica import replica

LABELS = ["red fox, Vulpes vulpes", "owl", "crane", "crane", "fox terrier"]
DEPTH, HEADS = 4, 2
PICTURES = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (30, 60, 3), dtype=np.uint8)) for i in range(5)]


def vit(**change):
    torch.manual_seed(0)
    shape = {"image_size": (32, 48), "patch_size": (8, 8), "dim": 32, "depth": DEPTH, "heads": HEADS, "mlp_dim": 64}
    model = ViT(ViTConfig(**shape, classes=len(LABELS), **change)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += torch.randn(parameter.shape) * 0.1
    return model


@pytest.fixture(scope="module")
def eye():
    return ImageClassifier(vit(), ImageTransform(size=(32, 48)), LABELS)


def changed(eye, model):
    return ImageClassifier(model, eye.transform, eye.labels)


def correlation(a, b):
    return np.corrcoef(a.heat.flatten(), b.heat.flatten())[0, 1]


@pytest.mark.parametrize(
    ("method", "layer", "run", "fused"),
    [
        ("attention", None, 4, 3),
        ("attention", 1, 2, 1),
        ("attention", "each", 4, 0),
        ("rollout", None, 4, 0),
        ("rollout", -3, 2, 0),
        ("gradient-rollout", 1, 4, 2),
        ("gradcam", 2, 4, 4),
        ("gradcam", "each", 4, 4),
        ("norms", 2, 3, 3),
        ("pca", 0, 1, 1),
    ],
)
def test_only_layers_that_are_asked_for_pay(eye, monkeypatch, method, layer, run, fused):
    calls = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append("fused") or kernel(*a, **k))
    module = sys.modules["eyesel.nn.attention"]
    attend = module.attention
    monkeypatch.setattr(module, "attention", lambda *a: calls.append("run") or attend(*a))
    eye.attention(PICTURES[0], method, layer)
    assert (calls.count("run"), calls.count("fused")) == (run, fused)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_left_behind(eye, method):
    pixels = eye.transform(PICTURES[:1])
    before, state = eye.model(pixels), {name: p.clone() for name, p in eye.model.named_parameters()}
    eye.attention(PICTURES[:1], method)
    for name, parameter in eye.model.named_parameters():
        assert not parameter.requires_grad and parameter.grad is None and torch.equal(parameter, state[name])
    for module in eye.model.modules():
        assert not module._forward_hooks and not module._backward_hooks
    assert torch.equal(eye.model(pixels), before)


@pytest.mark.parametrize("method", METHODS)
def test_the_caller_may_forbid_gradients(eye, method):
    expected = eye.attention(PICTURES[0], method).heat
    with torch.no_grad():
        assert torch.equal(eye.attention(PICTURES[0], method).heat, expected)
    with torch.inference_mode():
        assert torch.equal(eye.attention(PICTURES[0], method).heat, expected)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "pca"])
def test_a_batch_is_its_pictures(eye, method):
    answers = eye.attention(PICTURES, method, batch_size=2)
    assert len(answers) == 5
    for picture, answer in zip(PICTURES, answers, strict=True):
        alone = eye.attention(picture, method)
        torch.testing.assert_close(answer.heat, alone.heat, atol=1e-6, rtol=1e-4)
        assert answer.heat.shape == (4, 6) and answer.target == alone.target
        assert not answer.maps.requires_grad


def test_pictures_of_a_call_share_their_colours(eye):
    first, *_, again = eye.attention([*PICTURES, PICTURES[0]], "pca", batch_size=2)
    assert torch.equal(first.heat, again.heat) and first.heat.shape == (4, 6, 3)
    assert not torch.allclose(first.heat, eye.attention(PICTURES[0], "pca").heat, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
def test_every_precision(eye, method, dtype):
    half = changed(eye, replica(eye.model, lambda _, weight: weight.to(dtype)))
    a, b = eye.attention(PICTURES[0], method, target=None), half.attention(PICTURES[0], method)
    assert b.heat.dtype == torch.float32
    assert correlation(a, b) > 0.95  # of links of nearly one strength, others are discarded


def test_small_gradients_survive_float16(eye):
    """A head that says everything faintly has gradients below what float16 can hold."""
    faint = replica(eye.model, lambda name, w: w * 2**-10 if name in ("classifier.weight", "norm.weight") else w)
    half = changed(eye, replica(faint, lambda _, weight: weight.half()))
    a, b = (each.attention(PICTURES[0], "gradcam", target=1) for each in (eye, half))
    assert correlation(a, b) > 0.99


@pytest.mark.parametrize("method", ["rollout", "attention", "gradient-rollout"])
def test_each_layer_and_head_are_the_single_ones(eye, method):
    sheet = eye.attention(PICTURES[0], method, layer="each", head="each")
    assert sheet.heat.shape == (DEPTH, HEADS, 4, 6)
    assert sheet.layers == tuple(range(DEPTH)) and sheet.heads == tuple(range(HEADS))
    for layer in range(DEPTH):
        fused = eye.attention(PICTURES[0], method, layer, "each")
        torch.testing.assert_close(fused.heat, sheet.heat[layer])
        for head in range(HEADS):
            one = eye.attention(PICTURES[0], method, layer, head)
            torch.testing.assert_close(one.heat, sheet.heat[layer, head])
    strip = eye.attention(PICTURES[0], method, layer="each", fusion="max")
    torch.testing.assert_close(strip.heat[1], eye.attention(PICTURES[0], method, layer=1, fusion="max").heat)


def test_discarding_is_the_default_of_rollouts_only(eye):
    for method, ratio in (("rollout", 0.9), ("gradient-rollout", 0.9), ("attention", 0.0)):
        heat = eye.attention(PICTURES[0], method).heat
        assert torch.equal(heat, eye.attention(PICTURES[0], method, discard_ratio=ratio).heat)
    assert not torch.equal(
        eye.attention(PICTURES[0]).heat, eye.attention(PICTURES[0], "rollout", discard_ratio=0.0).heat
    )


class Kept:
    """The normed tokens in front of layer 2's attention, in the graph."""

    def wants(self, site):
        return site.layer == 2

    def tokens(self, site, x):
        self.x = x.requires_grad_()
        return x


@pytest.mark.parametrize("method", METHODS)
def test_registers_are_no_patches(eye, method):
    model = vit(registers=3)
    answer = changed(eye, model).attention(PICTURES[0], method, layer=2)
    assert answer.heat.shape[:2] == (4, 6)
    if method == "attention":
        torch.testing.assert_close(answer.heat.flatten(), answer.maps[0].mean(0)[0, 4:])
    if method == "gradcam":  # their gradients have no say in what a channel weighs
        tap = Kept()
        (gradient,) = torch.autograd.grad(model(eye.transform(PICTURES[:1]), tap).max(), tap.x)
        expected = tap.x[0, 4:] @ gradient[0, 4:].mean(0)
        torch.testing.assert_close(answer.heat.flatten(), expected.relu().detach(), atol=1e-6, rtol=1e-4)


KINDS = {
    "mean": {"pooling": "mean"},
    "mean of patches alone": {"pooling": "mean", "class_token": False, "prefix_positions": 0, "pooled_norm": True},
    "class token and mean": {"pooling": "cls+mean", "registers": 2},
    "two heads": {"distillation_token": True, "distillation_head": True, "prefix_positions": 2},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_vit_is_looked_into(eye, kind, method):
    of_kind = changed(eye, vit(**KINDS[kind]))
    answer = of_kind.attention(PICTURES[:2], method, layer="each", mask_outliers=method != "norms")[1]
    assert answer.heat.shape[:3] == (DEPTH, 4, 6)
    if method != "pca":
        torch.testing.assert_close(answer.heat[-1], of_kind.attention(PICTURES[1], method).heat, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_those_of_the_tokens_that_the_head_sees(eye, kind):
    of_kind = changed(eye, vit(**KINDS[kind]))
    prefix = of_kind.model.config.prefix_tokens
    answer = of_kind.attention(PICTURES[0], "attention")
    fused = answer.maps[0].mean(0)
    seen = {
        "mean": fused[1:].mean(0),
        "mean of patches alone": fused.mean(0),
        "class token and mean": (fused[0] + fused[3:].mean(0)) / 2,
        "two heads": (fused[0] + fused[1]) / 2,
    }
    torch.testing.assert_close(answer.heat.flatten(), seen[kind][prefix:])


@pytest.mark.parametrize("layer", [1, DEPTH - 1])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "mean" in kind])
def test_grad_cam_of_patches_that_the_head_sees(eye, kind, layer):
    """It weighs what a layer puts out: Zhou et al.'s class activation map, where that is the last one."""
    model = vit(**KINDS[kind])
    prefix = model.config.prefix_tokens
    *_, x = (x for i, x in enumerate(model.hidden_states(eye.transform(PICTURES[:1]))) if i <= layer + 1)
    kept = x.requires_grad_()
    for each in model.layers[layer + 1 :]:
        x = each(x)
    (gradient,) = torch.autograd.grad(model.logits(model.norm(x))[0, 3], kept)
    expected = (kept[0, prefix:] @ gradient[0, prefix:].mean(0)).relu().detach()
    answer = changed(eye, model).attention(PICTURES[0], "gradcam", layer, target=3)
    torch.testing.assert_close(answer.heat.flatten(), expected, atol=1e-6, rtol=1e-4)
    assert expected.any()


@pytest.mark.parametrize("method", METHODS)
def test_other_sizes(eye, method):
    wide = ImageClassifier(eye.model, eye.transform.with_size(40, 100), LABELS)
    assert wide.attention(PICTURES[0], method).heat.shape[:2] == (5, 12)


def outlier_at(eye, row, column):
    """The same model, in which one patch has a long vector from the start."""
    long = torch.zeros(1, 25, 32)
    long[0, 1 + row * 6 + column] = 40 * torch.sin(torch.arange(32))
    return changed(eye, replica(eye.model, lambda name, w: w + long if name == "position_embeddings" else w))


def test_outliers_are_shown_and_masked(eye):
    odd = outlier_at(eye, 1, 2)
    norms = odd.attention(PICTURES[0], "norms")
    assert norms.outliers.nonzero().tolist() == [[1, 2]]
    assert eye.attention(PICTURES[0], "rollout").outliers is None
    for method in ("rollout", "attention", "gradient-rollout", "gradcam"):
        noisy = odd.attention(PICTURES[:2], method)
        quiet = odd.attention(PICTURES[:2], method, mask_outliers=True)
        for a, b in zip(noisy, quiet, strict=True):
            around = a.heat[0:3, 1:4].sum() - a.heat[1, 2]
            torch.testing.assert_close(b.heat[1, 2], around / 8)
            a.heat[1, 2] = b.heat[1, 2] = 0
            assert torch.equal(a.heat, b.heat) and torch.equal(a.maps, b.maps)
    each = odd.attention(PICTURES[0], "attention", "each", "each", mask_outliers=True)
    assert each.outliers.shape == (DEPTH, 4, 6) and each.outliers[:, 1, 2].all()
    assert odd.attention(PICTURES[0], "rollout", mask_outliers=True, outlier_ratio=1000).outliers.sum() == 0


def test_outliers_have_no_say_in_colours(eye):
    odd = outlier_at(eye, 1, 2)
    loud = odd.attention(PICTURES[0], "pca").heat.flatten(0, 1)
    quiet = odd.attention(PICTURES[0], "pca", mask_outliers=True).heat
    plain = eye.attention(PICTURES[0], "pca").heat.flatten(0, 1)
    torch.testing.assert_close(quiet[1, 2], (quiet[0:3, 1:4].sum((0, 1)) - quiet[1, 2]) / 8)
    others = torch.arange(24) != 8
    # the strongest component of all patches is the one long vector; of the others, it is what it was
    first = [np.corrcoef(colours[others, 0], plain[others, 0])[0, 1] for colours in (loud, quiet.flatten(0, 1))]
    assert abs(first[0]) < abs(first[1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "lrp"}, ["'lrp'", "gradcam"]),
        ({"layer": 4}, ["4", "0 to 3", "each"]),
        ({"layer": -5}, ["-5"]),
        ({"layer": "all"}, ["all"]),
        ({"layer": 1.0}, ["1.0"]),
        ({"head": 2}, ["2", "0 to 1"]),
        ({"head": True}, ["True"]),
        ({"fusion": "sum"}, ["'sum'"]),
        ({"discard_ratio": 1.0}, ["1.0"]),
        ({"method": "gradcam", "head": 0}, ["head is 0", "gradcam"]),
        ({"method": "gradcam", "fusion": "max"}, ["fusion", "gradcam"]),
        ({"method": "pca", "discard_ratio": 0.5}, ["0.5", "pca"]),
        ({"target": 1}, ["rollout is the same", "gradient-rollout"]),
        ({"method": "gradcam", "target": "eagle"}, ["'eagle'"]),
        ({"method": "gradcam", "target": "owk"}, ["'owk'", "owl"]),
        ({"method": "gradcam", "target": 5}, ["5"]),
        ({"method": "gradcam", "target": -1}, ["-1"]),
        ({"method": "gradcam", "target": "crane"}, ["'crane'"]),
        ({"method": "norms", "mask_outliers": True}, ["norms shows"]),
        ({"mask_outliers": True, "outlier_ratio": 1.0}, ["1.0"]),
        ({"batch_size": 0}, ["0"]),
    ],
    ids=str,
)
def test_settings_that_cannot_be(eye, settings, words):
    with pytest.raises(SettingError) as error:
        eye.attention(PICTURES[0], **settings)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("target", "index"), [("owl", 1), ("OWL", 1), (0, 0), ("3", 3), ("red fox", 0), ("vulpes vulpes", 0)]
)
def test_a_class_by_its_label_or_number(eye, target, index):
    answer = eye.attention(PICTURES[0], "gradient-rollout", target=target)
    assert answer.target == LABELS[index]
    [look] = explain(eye.model, [eye.transform(PICTURES[:1])], Question("gradient-rollout", target=index))
    assert torch.equal(answer.heat, look.heat[0]) and look.target == index


def test_no_pictures(eye):
    with pytest.raises(SettingError, match="no pictures"):
        eye.attention([])


def test_a_model_without_a_head_has_no_classes(eye):
    torch.manual_seed(0)
    headless = changed(eye, ViT(ViTConfig((32, 48), (8, 8), dim=32, depth=2, heads=2, mlp_dim=64)).eval())
    assert headless.attention(PICTURES[0]).heat.shape == (4, 6)
    with pytest.raises(SettingError, match="no classification head"):
        headless.attention(PICTURES[0], "gradcam")


@pytest.mark.parametrize("method", METHODS)
def test_a_model_of_nans_is_not_believed(eye, method):
    broken = changed(
        eye, replica(eye.model, lambda name, w: w * float("nan") if name == "layers.0.mlp.fc1.bias" else w)
    )
    with pytest.raises(CheckpointError, match="no numbers"):
        broken.attention(PICTURES[0], method)
