"""grouped_linear: every expert's rows through its own weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.ops import grouped_linear
from tests.ops.quantized_cases import random_weight
from tests.ops.test_quantized_linear import activations


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_dense_experts_and_their_gradients(counts: list[int]) -> None:
    tokens, offsets = sum(counts), torch.tensor([0, *counts]).cumsum(0)
    weights = activations(len(counts), 12, 20, seed=5).requires_grad_()
    x = activations(tokens, 20).requires_grad_()
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    y = grouped_linear(x, weights, offsets)
    expected = torch.einsum("ti,toi->to", x.double(), weights.double()[owner])
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    if tokens:
        ours = torch.autograd.grad(y.square().sum(), (x, weights))
        exact = torch.autograd.grad(expected.square().sum(), (x, weights))
        for mine, theirs in zip(ours, exact, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_quantized_experts() -> None:
    experts = [random_weight(format, 24, 256, seed) for seed, format in enumerate(("q4_k", "q8_0", "q6_k"))]
    offsets, x = torch.tensor([0, 4, 4, 9]), activations(9, 256).requires_grad_()
    y = grouped_linear(x, [weight for weight, _ in experts], offsets)
    expected = torch.cat([x[:4] @ experts[0][1].t(), x[4:] @ experts[2][1].t()])
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    grads = [torch.autograd.grad(out.sum(), x)[0] for out in (y, expected)]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-4)


def test_company_does_not_change_a_row() -> None:
    weights, x = activations(2, 33, 64, seed=2).bfloat16(), activations(50, 64).bfloat16()
    crowded = grouped_linear(x, weights, torch.tensor([0, 20, 50]))
    alone = grouped_linear(x[19:21], weights, torch.tensor([0, 1, 2]))
    assert torch.equal(alone, crowded[19:21])


def test_bad_input_is_named() -> None:
    x, weights = torch.ones(4, 8), torch.ones(2, 3, 8)
    for offsets in ([0, 4], [0, 3, 2], [1, 2, 4], [0, 2, 5], [0, 2, 3]):
        with pytest.raises(ValueError, match="offsets must"):
            grouped_linear(x, weights, torch.tensor(offsets))
    with pytest.raises(ValueError, match="offsets must"):
        grouped_linear(x, [], torch.tensor([0]))
    with pytest.raises(ValueError, match="weights must be"):
        grouped_linear(x, torch.ones(2, 3, 7), torch.tensor([0, 2, 4]))
    with pytest.raises(ValueError, match="x must be"):
        grouped_linear(torch.ones(4), weights, torch.tensor([0, 2, 4]))
    with pytest.raises(TypeError, match="weight"):
        grouped_linear(x.half(), weights, torch.tensor([0, 2, 4]))
