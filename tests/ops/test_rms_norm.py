from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.ops import rms_norm
from pyllm.ops.rms_norm import rms_norm_reference
from tests.ops.numerics import assert_same_bits_at_any_thread_count, check_op

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 4), (3, 5), (2, 3, 64), (7, 576), (5, 1000), (300, 33)]


def inputs(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x, residual = (torch.randn(shape, generator=g).to(dtype).requires_grad_() for _ in range(2))
    weight = (1 + 0.1 * torch.randn(shape[-1:], generator=g)).to(dtype).requires_grad_()
    return [x, weight, residual]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_rule(isa: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight, residual = inputs(shape, dtype)
    check_op(
        lambda x, w: rms_norm(x, w, 1e-5, weight_offset=1.0),
        lambda x, w: rms_norm_reference(x, w, 1e-5, weight_offset=1.0),
        [x, weight],
    )
    check_op(
        lambda x, w, r: rms_norm(x, w, residual=r),
        lambda x, w, r: rms_norm_reference(x, w, residual=r),
        [x, weight, residual],
    )


def test_gradcheck() -> None:
    x, weight, residual = (t.detach().double().requires_grad_() for t in inputs((3, 7), torch.float32))
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w), (x, weight))
    assert torch.autograd.gradcheck(lambda x, w, r: rms_norm(x, w, residual=r), (x, weight, residual))


def test_opcheck() -> None:
    x, weight, residual = inputs((2, 3, 8), torch.float32)
    torch.library.opcheck(torch.ops.pyllm.rms_norm.default, (x, weight, 1e-6, 0.0))
    torch.library.opcheck(torch.ops.pyllm.add_rms_norm.default, (x, residual, weight, 1e-6, 1.0))
    y, rstd = torch.ops.pyllm.rms_norm.default(x.detach(), weight.detach(), 1e-6, 0.0)
    arguments = (y, residual.detach(), x.detach(), weight.detach(), rstd, 0.0)
    torch.library.opcheck(torch.ops.pyllm.rms_norm_backward.default, arguments)


def test_compiles_with_dynamic_shapes() -> None:
    def f(x: torch.Tensor, w: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        y, h = rms_norm(x * 2, w, residual=r)
        return y.sin() + h

    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (3, 5):
        x, weight, residual = inputs((rows, 16), torch.float32)
        torch.testing.assert_close(compiled(x, weight, residual), f(x, weight, residual))
        compiled(x, weight, residual).sum().backward()
        assert x.grad is not None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_at_any_thread_count(isa: str, dtype: torch.dtype) -> None:
    x, weight, _ = inputs((500, 96), dtype)

    def run() -> list[torch.Tensor]:
        y = rms_norm(x, weight)
        return [y.detach(), *torch.autograd.grad(y.float().square().sum(), (x, weight))]

    assert_same_bits_at_any_thread_count(run)


@given(rows=st.integers(0, 9), columns=st.integers(1, 70), stride=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_rows_do_not_see_each_other(rows: int, columns: int, stride: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns * stride, generator=g)[:, ::stride]
    weight = torch.randn(columns, generator=g)
    y = rms_norm(x, weight)
    assert y.shape == x.shape
    for i in range(rows):
        assert torch.equal(y[i], rms_norm(x[i], weight))


def test_zero_columns_and_nan(isa: str) -> None:
    assert rms_norm(torch.empty(3, 0), torch.empty(0)).shape == (3, 0)
    x = torch.ones(2, 40)
    x[0, 7] = float("nan")
    y = rms_norm(x, torch.ones(40))
    assert y[0].isnan().all()
    assert torch.isfinite(y[1]).all()


def test_autocast_follows_the_input() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert rms_norm(torch.randn(2, 8).bfloat16(), torch.ones(8)).dtype == torch.bfloat16


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="weight"):
        rms_norm(torch.randn(2, 8), torch.ones(7))
    with pytest.raises(TypeError, match="weight"):
        rms_norm(torch.randn(2, 8), torch.ones(8).half())
    with pytest.raises(ValueError, match="residual"):
        rms_norm(torch.randn(2, 8), torch.ones(8), residual=torch.ones(8))
    with pytest.raises(TypeError, match="x must be"):
        rms_norm(torch.ones(2, 8, dtype=torch.int64), torch.ones(8))
