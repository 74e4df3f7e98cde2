import torch
from torch import nn

from eyesel.nn.replica import replica


def test_a_replica_shares_what_it_does_not_change():
    model = nn.Sequential(nn.Linear(3, 3), nn.Conv2d(3, 3, 3))
    before = {name: p.clone() for name, p in model.named_parameters()}
    other = replica(model, lambda name, weight: weight * 2 if name == "0.weight" else weight)
    other[1].padding_mode = "circular"
    for name, own in model.named_parameters():
        changed = name == "0.weight"
        theirs = other.get_parameter(name)
        assert (theirs is own) == (not changed)
        assert torch.equal(own, before[name]) and torch.equal(theirs, before[name] * (2 if changed else 1))
    assert model[1].padding_mode == "zeros" and not other[0].weight.requires_grad


def test_a_replica_in_another_precision_leaves_the_model_alone():
    model = nn.Linear(3, 3)
    half = replica(model, lambda _, weight: weight.to(torch.bfloat16))
    assert half.weight.dtype == half.bias.dtype == torch.bfloat16 and model.weight.dtype == torch.float32
