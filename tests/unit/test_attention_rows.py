"""Attention by rows, which bfloat16 runs through on CPUs: the same numbers as the fused kernel, whatever the shapes."""

import pytest
import torch
import torch.nn.functional as F

from eyesel.nn import attention as module
from eyesel.nn.attention import attention

SHAPES = [(1, 1, 1, 1, 8, 8), (2, 3, 700, 77, 40, 24), (1, 4, 513, 1300, 40, 40), (3, 5, 64, 64, 160, 160)]


def qkv(batch, heads, n, m, d, d_value, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = (n, heads, d), (m, heads, d), (m, heads, d_value)  # heads come as a view of (B, N, h·d)
    q, k, v = (torch.randn(batch, *shape, generator=generator).transpose(1, 2) for shape in shapes)
    return q.to(dtype), (k + 3).to(dtype), v.to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scores", [1 << 22, 1 << 12])
def test_equals_the_fused_kernel(monkeypatch, shape, scores):
    monkeypatch.setattr(module, "_SCORES", scores)
    q, k, v = qkv(*shape)
    torch.testing.assert_close(module._attention_by_rows(q, k, v), F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_as_exact_as_bfloat16(shape):
    q, k, v = qkv(*shape, dtype=torch.bfloat16)
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    error = (attention(q, k, v).double() - expected).norm() / expected.norm()
    assert error < 2**-6


def test_gradients_take_the_fused_kernel():
    q, k, v = (t.requires_grad_() for t in qkv(1, 2, 8, 8, 8, 8, dtype=torch.bfloat16))
    attention(q, k, v).sum().backward()
    assert q.grad is not None and k.grad is not None and v.grad is not None
