"""What the eye looked at, against transformers' eager attention and formulas that are written out here."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from eyesel import ImageClassifier
from eyesel.taps.outliers import find_outliers
from tiny_models import write_classifier

TOLERANCE = 1e-4
LAYERS, HEADS = 3, 4
PICTURES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 30 + i, 3), dtype=np.uint8)) for i in range(3)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_classifier(tmp_path_factory.mktemp("classifier"), image_size=[32, 48])


@pytest.fixture(scope="module")
def eye(folder):
    ours = ImageClassifier.load(folder, precision="float32")
    ours.transform = ours.transform.with_size(32, 48)  # a grid of 4 x 6
    return ours


@pytest.fixture(scope="module")
def theirs(folder):
    return transformers.ViTForImageClassification.from_pretrained(folder, attn_implementation="eager")


@pytest.fixture(scope="module")
def pixels(eye):
    return eye.transform(PICTURES)


def run(theirs, pixels, target=None):
    """Attentions and normed tokens of each layer with the gradients of one class's logit, as arrays (B, ...)."""
    tokens = []
    hooks = [
        layer.layernorm_before.register_forward_hook(lambda module, arguments, out: tokens.append(out))
        for layer in theirs.vit.layers
    ]
    out = theirs(pixels, output_attentions=True)
    for hook in hooks:
        hook.remove()
    for tensor in (*out.attentions, *tokens):
        tensor.retain_grad()
    classes = out.logits.argmax(-1) if target is None else torch.full((len(pixels),), target)
    out.logits[torch.arange(len(pixels)), classes].sum().backward()
    pairs = [[(x.detach().numpy(), x.grad.numpy()) for x in kept] for kept in (out.attentions, tokens)]
    theirs.zero_grad()
    return *pairs, classes.tolist()


def close(attention, expected):
    assert np.abs(attention.heat.numpy() - expected).max() <= TOLERANCE * max(1, np.abs(expected).max())


def normalised(matrix):
    matrix = 0.5 * matrix + 0.5 * np.eye(len(matrix))
    return matrix / matrix.sum(-1, keepdims=True)


def without_weakest(fused, ratio):
    order = np.argsort(fused, axis=None, kind="stable")[: int(fused.size * ratio)]
    cut = fused.flatten()
    cut[order[order != 0]] = 0
    return cut.reshape(fused.shape)


def test_attention_of_each_layer_and_head(eye, theirs, pixels):
    attentions, _, _ = run(theirs, pixels)
    answers = eye.attention(PICTURES, "attention", layer="each", head="each")
    for b, answer in enumerate(answers):
        assert answer.layers == (0, 1, 2) and answer.heads == (0, 1, 2, 3)
        close(answer, np.stack([p[b, :, 0, 1:].reshape(HEADS, 4, 6) for p, _ in attentions]))
    for fusion in ("mean", "max", "min"):
        answer = eye.attention(PICTURES[1], "attention", layer=-2, fusion=fusion)
        close(answer, getattr(attentions[1][0][1], fusion)(axis=0)[0, 1:].reshape(4, 6))


@pytest.mark.parametrize("target", [None, 2, "owl"])
@pytest.mark.parametrize("discard_ratio", [0.0, 0.9])
def test_gradient_rollout(eye, theirs, pixels, target, discard_ratio):
    attentions, _, classes = run(theirs, pixels, 2 if target == "owl" else target)
    answers = eye.attention(PICTURES, "gradient-rollout", target=target, discard_ratio=discard_ratio)
    strip = eye.attention(PICTURES, "gradient-rollout", target=target, discard_ratio=discard_ratio, layer="each")
    for b, (answer, each) in enumerate(zip(answers, strip, strict=True)):
        assert answer.target == eye.labels[classes[b]]
        joint = np.eye(25)
        for layer, (p, gradient) in enumerate(attentions):
            fused = np.maximum(p[b] * gradient[b], 0).mean(0)
            joint = normalised(without_weakest(fused, discard_ratio)) @ joint
            expected = joint[0, 1:].reshape(4, 6)
            difference = np.abs(each.heat[layer].numpy() - expected).max()
            assert difference <= TOLERANCE * expected.max()  # gradients are small, and so are these
        np.testing.assert_allclose(joint.sum(-1), 1)
        assert torch.equal(each.heat[-1], answer.heat)


def test_gradient_rollout_of_one_head(eye, theirs, pixels):
    attentions, _, _ = run(theirs, pixels)
    joint = np.eye(25)
    for p, gradient in attentions[:2]:
        joint = normalised(np.maximum(p[1, 3] * gradient[1, 3], 0)) @ joint
    answer = eye.attention(PICTURES[1], "gradient-rollout", layer=1, head=3, discard_ratio=0)
    each = eye.attention(PICTURES[1], "gradient-rollout", layer=1, head="each", discard_ratio=0)
    assert np.abs(answer.heat.numpy() - joint[0, 1:].reshape(4, 6)).max() <= TOLERANCE * joint[0, 1:].max()
    torch.testing.assert_close(each.heat[3], answer.heat)


@pytest.mark.parametrize("target", [None, 5])
def test_grad_cam(eye, theirs, pixels, target):
    """Selvaraju et al.: channels weigh what their gradient is in the mean; negative evidence counts nothing."""
    _, tokens, classes = run(theirs, pixels, target)
    strip = eye.attention(PICTURES, "gradcam", layer="each", target=target)
    answers = eye.attention(PICTURES, "gradcam", target=target)
    for b, (each, answer) in enumerate(zip(strip, answers, strict=True)):
        assert answer.target == eye.labels[classes[b]]
        for layer, (activations, gradients) in enumerate(tokens):
            weights = gradients[b, 1:].mean(0)
            expected = np.maximum((activations[b, 1:] * weights).sum(-1), 0).reshape(4, 6)
            assert np.abs(each.heat[layer].numpy() - expected).max() <= TOLERANCE * max(expected.max(), 1e-3)
        torch.testing.assert_close(answer.heat, each.heat[-1])  # the norm before the last layer's attention
        assert (each.maps.numpy() < 0).any()  # with its sign


def test_norms_and_features(eye, theirs, pixels):
    with torch.no_grad():
        hidden = theirs(pixels, output_hidden_states=True).hidden_states
        final = theirs.vit(pixels).last_hidden_state
    for b, answer in enumerate(eye.attention(PICTURES, "norms", layer="each")):
        expected = torch.stack([x[b].norm(dim=-1) for x in hidden[1:]])
        assert (answer.maps - expected).abs().max() <= TOLERANCE * expected.max()
        close(answer, expected[:, 1:].unflatten(1, (4, 6)).numpy())
        assert torch.equal(answer.outliers, find_outliers(answer.heat))
    for b, answer in enumerate(eye.attention(PICTURES, "pca")):
        assert (answer.maps[0] - final[b]).abs().max() <= TOLERANCE * final.abs().max()
        assert answer.heat.shape == (4, 6, 3)
