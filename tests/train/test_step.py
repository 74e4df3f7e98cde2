"""One training step, against transformers' own model with the same weights on the same batch."""

import pytest
import torch
import transformers
from transformers.trainer_pt_utils import LabelSmoother

from eyesel.classifier import ImageClassifier
from eyesel.train.tuning import ClassifierTask, Lora, for_classes, set_trainable
from eyesel.weights.vit_transformers_format import TRANSFORMERS_5


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, 32, 32, generator=generator), torch.tensor([0, 1, 2, 3, 4, 6])


def gradients(reference):
    return {
        TRANSFORMERS_5.read(name)[0]: parameter.grad
        for name, parameter in reference.named_parameters()
        if parameter.grad is not None
    }


def check(task, reference):
    theirs = gradients(reference)
    ours = {name: parameter.grad for name, parameter in task.model.named_parameters()}
    assert set(ours) == set(theirs)
    for name, grad in ours.items():
        assert (grad - theirs[name]).abs().max() <= 1e-5, name


def test_loss_and_gradients(base, batch):
    pixels, labels = batch
    eye = ImageClassifier.load(base, device="cpu", precision="float32")
    model, order, note = for_classes(eye, sorted(eye.labels), seed=0)
    assert note is None and order == list(
        eye.labels
    )  # the base tells these classes already: its head and its order stay
    task = ClassifierTask(model).train()
    reference = transformers.ViTForImageClassification.from_pretrained(base).train()
    ours = task(pixel_values=pixels, labels=labels)
    theirs = reference(pixel_values=pixels, labels=labels)
    assert abs(ours["loss"].item() - theirs.loss.item()) <= 1e-5
    ours["loss"].backward()
    theirs.loss.backward()
    check(task, reference)


def test_smoothing_is_that_of_trainer_and_weights_that_of_torch(base, batch):
    pixels, labels = batch
    eye = ImageClassifier.load(base, device="cpu", precision="float32")
    weights = torch.linspace(0.5, 2, 7)
    reference = transformers.ViTForImageClassification.from_pretrained(base).train()
    logits = reference(pixel_values=pixels).logits
    smoothed = ClassifierTask(eye.model, smoothing=0.1).train()(pixel_values=pixels, labels=labels)["loss"]
    expected = LabelSmoother(epsilon=0.1)({"logits": logits}, labels)
    assert abs(smoothed.item() - expected.item()) <= 1e-5
    weighed = ClassifierTask(eye.model, weights).train()(pixel_values=pixels, labels=labels)["loss"]
    expected = torch.nn.CrossEntropyLoss(weights)(logits, labels)
    assert abs(weighed.item() - expected.item()) <= 1e-5
    plain = ClassifierTask(eye.model, weights, 0.1).eval()(pixel_values=pixels, labels=labels)["loss"]
    assert abs(plain.item() - torch.nn.functional.cross_entropy(logits, labels).item()) <= 1e-5


def test_checkpointed_activations_change_nothing(base, batch):
    pixels, labels = batch
    found = []
    for checkpointed in (False, True):
        eye = ImageClassifier.load(base, device="cpu", precision="float32")
        task = ClassifierTask(for_classes(eye, eye.labels, seed=0)[0]).train()
        if checkpointed:
            task.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=2)
        task(pixel_values=pixels, labels=labels)["loss"].backward()
        found.append({name: parameter.grad for name, parameter in task.model.named_parameters()})
    assert all(torch.equal(found[0][name], grad) for name, grad in found[1].items())


def test_a_new_head(base):
    """Of the size of the data, with transformers' spread of weights; everything else is the base's."""
    eye = ImageClassifier.load(base, device="cpu", precision="float32")
    model, order, note = for_classes(eye, ["x", "y", "z"], seed=3)
    assert order == ["x", "y", "z"] and "7 other classes" in note
    assert model.classifier.weight.shape == (3, 48) and model.classifier.bias.abs().max() == 0
    assert 0.015 < model.classifier.weight.std() < 0.025
    own = model.state_dict()
    for name, tensor in eye.model.state_dict().items():
        if not name.startswith("classifier."):
            assert torch.equal(own[name], tensor) and own[name].data_ptr() != tensor.data_ptr()


@pytest.mark.parametrize(
    ("tune", "expected"),
    [
        ("head", {"classifier"}),
        ("last-1", {"layers.2", "norm", "classifier"}),
        ("lora", {"lora", "classifier"}),
    ],
)
def test_what_is_trained(base, tune, expected):
    eye = ImageClassifier.load(base, device="cpu", precision="float32")
    model, *_ = for_classes(eye, ["x", "y"], seed=0)
    set_trainable(model, tune, Lora(rank=2))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    kinds = {
        "lora" if ".lora_" in name else ".".join(name.split(".")[: 2 if name.startswith("layers") else 1])
        for name in trained
    }
    assert kinds == expected
