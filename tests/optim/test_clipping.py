from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.optim import clip_coefficient, clip_grad_norm_


def parameters(seed: int) -> list[torch.nn.Parameter]:
    g = torch.Generator().manual_seed(seed)
    params = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (50,), (2,))]
    for p in params[:2]:
        p.grad = torch.randn(p.shape, generator=g)
    return params


@given(max_norm=st.floats(0.0, 20.0), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_equals_torch(max_norm: float, seed: int) -> None:
    ours, theirs = parameters(seed), parameters(seed)
    norm = clip_grad_norm_(ours, max_norm)
    torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs, max_norm))
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    assert clip_coefficient(norm.item(), max_norm) == min(1.0, max_norm / (norm.item() + 1e-6))


def test_one_tensor_no_gradient_and_no_limit() -> None:
    p = parameters(0)[1]
    before = p.grad.clone()  # type: ignore[union-attr]
    assert clip_grad_norm_(p, float("inf")).item() > 0
    assert torch.equal(p.grad, before)  # type: ignore[arg-type]
    assert clip_grad_norm_(parameters(0)[2:], 1.0).item() == 0.0


def test_bad_input_is_named() -> None:
    params = parameters(0)
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="max_norm"):
            clip_grad_norm_(params, bad)
        with pytest.raises(ValueError, match="max_norm"):
            clip_coefficient(1.0, bad)
    params[0].grad[0, 0] = float("inf")  # type: ignore[index]
    before = params[1].grad.clone()  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="norm is inf"):
        clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    assert torch.equal(params[1].grad, before)  # type: ignore[arg-type]
