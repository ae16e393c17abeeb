from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.ops import layer_norm
from pyllm.ops.layer_norm import layer_norm_reference
from tests.ops.numerics import assert_same_bits_at_any_thread_count, check_op

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 4), (3, 5), (2, 3, 64), (7, 576), (5, 1000), (300, 33)]


def inputs(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    """x, weight, bias, residual"""
    g = torch.Generator().manual_seed(seed)
    x, residual = (torch.randn(shape, generator=g).add(0.5).to(dtype).requires_grad_() for _ in range(2))
    weight = (1 + 0.1 * torch.randn(shape[-1:], generator=g)).to(dtype).requires_grad_()
    bias = (0.1 * torch.randn(shape[-1:], generator=g)).to(dtype).requires_grad_()
    return [x, weight, bias, residual]


def plain(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, r: torch.Tensor) -> Any:
    """In the arithmetic of the inputs' dtype, step by step."""
    h = x + r
    centered = h - h.mean(-1, keepdim=True)
    return centered * torch.rsqrt(centered.square().mean(-1, keepdim=True) + 1e-5) * w + b, h


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_rule(isa: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight, bias, residual = inputs(shape, dtype)
    check_op(layer_norm, layer_norm_reference, [x, weight, bias])
    check_op(layer_norm, layer_norm_reference, [x, weight])
    check_op(
        lambda x, w, b, r: layer_norm(x, w, b, residual=r),
        lambda x, w, b, r: layer_norm_reference(x, w, b, residual=r),
        [x, weight, bias, residual],
    )


def test_definition() -> None:
    arguments = [t.detach().double() for t in inputs((4, 33), torch.float32)]
    for mine, theirs in zip(
        layer_norm(*arguments[:3], residual=arguments[3]), plain(*arguments), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_large_mean(isa: str) -> None:
    """A variance from sums of squares would have lost all its digits."""
    x = torch.randn(3, 500, generator=torch.Generator().manual_seed(0)) + 3000
    y = layer_norm(x, torch.ones(500))
    exact = torch.nn.functional.layer_norm(x.double(), (500,))
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=1e-3)


def test_gradcheck() -> None:
    x, weight, bias, residual = (t.detach().double().requires_grad_() for t in inputs((3, 7), torch.float32))
    assert torch.autograd.gradcheck(layer_norm, (x, weight, bias))
    assert torch.autograd.gradcheck(layer_norm, (x, weight))
    assert torch.autograd.gradcheck(
        lambda x, w, b, r: layer_norm(x, w, b, residual=r), (x, weight, bias, residual)
    )


def test_opcheck() -> None:
    x, weight, bias, residual = inputs((2, 3, 8), torch.float32)
    torch.library.opcheck(torch.ops.pyllm.layer_norm.default, (x, weight, bias, 1e-6))
    torch.library.opcheck(torch.ops.pyllm.layer_norm.default, (x, weight, None, 1e-6))
    torch.library.opcheck(torch.ops.pyllm.add_layer_norm.default, (x, residual, weight, bias, 1e-6))
    arguments = [t.detach() for t in (x, weight, bias)]
    y, mean, rstd = torch.ops.pyllm.layer_norm.default(*arguments, 1e-6)
    arguments = (y, residual.detach(), x.detach(), weight.detach(), mean, rstd)
    torch.library.opcheck(torch.ops.pyllm.layer_norm_backward.default, arguments)


def test_compiles_with_dynamic_shapes() -> None:
    def f(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        y, h = layer_norm(x * 2, w, b, residual=r)
        return y.sin() + h

    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (3, 5):
        arguments = inputs((rows, 16), torch.float32)
        torch.testing.assert_close(compiled(*arguments), f(*arguments))
        compiled(*arguments).sum().backward()
        assert all(argument.grad is not None for argument in arguments)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_at_any_thread_count(isa: str, dtype: torch.dtype) -> None:
    x, weight, bias, _ = inputs((500, 96), dtype)

    def run() -> list[torch.Tensor]:
        y = layer_norm(x, weight, bias)
        return [y.detach(), *torch.autograd.grad(y.float().square().sum(), (x, weight, bias))]

    assert_same_bits_at_any_thread_count(run)


@given(rows=st.integers(0, 9), columns=st.integers(1, 70), stride=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_rows_do_not_see_each_other(rows: int, columns: int, stride: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns * stride, generator=g)[:, ::stride]
    weight = torch.randn(columns, generator=g)
    y = layer_norm(x, weight)
    assert y.shape == x.shape
    for i in range(rows):
        assert torch.equal(y[i], layer_norm(x[i], weight))


def test_zero_columns_and_nan(isa: str) -> None:
    assert layer_norm(torch.empty(3, 0), torch.empty(0)).shape == (3, 0)
    x = torch.ones(2, 40)
    x[0, 7] = float("nan")
    y = layer_norm(x, torch.ones(40))
    assert y[0].isnan().all()
    assert torch.isfinite(y[1]).all()


def test_autocast_follows_the_input() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert layer_norm(torch.randn(2, 8).bfloat16(), torch.ones(8)).dtype == torch.bfloat16


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="weight"):
        layer_norm(torch.randn(2, 8), torch.ones(7))
    with pytest.raises(TypeError, match="weight"):
        layer_norm(torch.randn(2, 8), torch.ones(8).half())
    with pytest.raises(ValueError, match="bias"):
        layer_norm(torch.randn(2, 8), torch.ones(8), torch.ones(7))
    with pytest.raises(TypeError, match="bias"):
        layer_norm(torch.randn(2, 8), torch.ones(8), torch.ones(8).half())
    with pytest.raises(ValueError, match="residual"):
        layer_norm(torch.randn(2, 8), torch.ones(8), residual=torch.ones(8))
    with pytest.raises(TypeError, match="x must be"):
        layer_norm(torch.ones(2, 8, dtype=torch.int64), torch.ones(8))
