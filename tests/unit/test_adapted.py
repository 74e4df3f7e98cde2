"""Layers with low-rank changes beside them: what the same layers compute with the changes in their weights."""

import pytest
import torch
from torch import nn

from eyesel.nn.adapted import adapted
from eyesel.nn.lora import LowRank, Whole

LAYERS = {
    "linear": lambda: nn.Linear(6, 5),
    "without bias": lambda: nn.Linear(6, 5, bias=False),
    "convolution": lambda: nn.Conv2d(6, 5, 3, padding=1),
    "with a stride": lambda: nn.Conv2d(6, 5, 3, stride=2, padding=1),
    "around the edges": lambda: nn.Conv2d(6, 5, 3, padding=1, padding_mode="circular"),
    "of one position": lambda: nn.Conv2d(6, 5, 1),
}


def change(weight, core=False):
    rank, (rows, columns, *kernel) = 2, weight.shape
    down = torch.randn(rank, columns, *(kernel if not core else [1] * len(kernel)))
    middle = torch.randn(rank, rank, *kernel) if core else None
    return LowRank(down.half(), torch.randn(rows, rank, *[1] * len(kernel)).half(), 0.5, middle)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("core", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_apart_is_fused(kind, core, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(LAYERS[kind]()).eval().to(dtype)
    weight = model[0].weight
    before = weight.clone()
    x = torch.randn(2, 6) if weight.dim() == 2 else torch.randn(2, 6, 7, 8)
    core = core and weight.dim() == 4
    changes = {"0.weight": [(change(weight, core), 0.7), (change(weight), -1.5)]}
    fused, apart = adapted(model, changes), adapted(model, changes, fuse=False)
    assert apart[0].weight is weight and apart[0].bias is model[0].bias and fused[0].weight is not weight
    assert not apart[0].training and isinstance(apart[0], type(model[0]))
    with torch.no_grad():
        expected = adapted(model.float(), changes)(x)
        model.to(dtype)
        tolerance = 1e-5 if dtype == torch.float32 else 0.02
        for each in (fused, apart):
            assert (each.to(dtype)(x.to(dtype)).float() - expected).abs().max() <= tolerance * expected.abs().max()
        again = adapted(
            adapted(model, {"0.weight": changes["0.weight"][:1]}, False), {"0.weight": changes["0.weight"][1:]}, False
        )
        assert torch.equal(again(x.to(dtype)), apart(x.to(dtype)))
    assert torch.equal(weight, before)


def test_what_cannot_stand_apart_is_fused():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    changes = {
        "0.weight": [(Whole(torch.ones(4, 4)), 1.0)],
        "0.bias": [(Whole(torch.ones(4)), 2.0)],
        "1.weight": [(Whole(torch.ones(4)), 1.0)],
    }
    other = adapted(model, changes, fuse=False)
    assert type(other[0]) is nn.Linear and other[1].bias is model[1].bias
    assert torch.equal(other[0].bias, model[0].bias + 2) and torch.equal(other[1].weight, model[1].weight + 1)


def test_a_weight_keeps_its_layout():
    model = nn.Sequential(nn.Conv2d(4, 4, 3)).to(memory_format=torch.channels_last)
    other = adapted(model, {"0.weight": [(change(model[0].weight), 1.0)]})
    assert other[0].weight.stride() == model[0].weight.stride() != torch.empty(4, 4, 3, 3).stride()
