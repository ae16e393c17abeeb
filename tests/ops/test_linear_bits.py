"""The order of linear's sums: what DESIGN promises to the bit, at every level, and AMX's order emulated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pyllm.ops import _library, linear
from tests.ops.conftest import levels
from tests.ops.numerics import assert_as_accurate
from tests.ops.test_linear import inputs

needs_amx = pytest.mark.skipif("amx" not in levels(), reason="no tiles on this machine")
# (rows, out, in): partial tiles and panels, several depth chunks, each way of reading and of packing
TILE_SHAPES = [(1, 1, 1), (1, 15, 33), (2, 17, 31), (1, 100, 0), (3, 33, 64), (17, 48, 100), (48, 64, 96)]
TILE_SHAPES += [(64, 33, 352), (65, 65, 40), (100, 130, 350), (200, 40, 700), (40, 300, 1000), (600, 600, 70)]


def tile_order(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """TDPBF16PS's order: per 32 k, even and odd k chained apart from zero, added, then added to the sum.

    A bfloat16 product is exact in float64 and so is its sum with a float32 where that sum lies halfway between two
    float32: rounding the float64 sum is a float32 fused multiply-add.
    """
    a, b = (np.pad(t.detach().double().numpy(), ((0, 0), (0, -t.shape[1] % 32))) for t in (x, weight))
    sums = np.zeros((a.shape[0], b.shape[0]), np.float32)
    for start in range(0, a.shape[1], 32):
        chains = [np.zeros_like(sums), np.zeros_like(sums)]
        for k in range(start, start + 32):
            chains[k % 2] = (chains[k % 2] + a[:, k, None] * b[None, :, k]).astype(np.float32)
        sums += chains[0] + chains[1]
    return torch.from_numpy(sums + bias.detach().float().numpy())


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Equal values at other strides."""
    if layout == "transposed":
        return x.t().contiguous().t()
    return x.repeat_interleave(2, 1)[:, ::2] if layout == "strided" else x


@needs_amx
@pytest.mark.parametrize("shape", TILE_SHAPES, ids=str)
def test_amx_order_is_that_of_the_tile_product(shape: tuple[int, int, int]) -> None:
    rows, out, depth = shape
    x, weight, bias = (t.detach() for t in inputs((rows, depth), out, torch.bfloat16))
    expected = tile_order(x, weight, bias)
    with _library.forced_isa("amx"):
        for x_layout in ("plain", "transposed"):
            for weight_layout in ("plain", "transposed"):
                a, b = laid_out(x, x_layout), laid_out(weight, weight_layout)
                assert torch.equal(linear(a, b, bias, out_dtype=torch.float32), expected)
                assert torch.equal(linear(a, b, bias), expected.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_any_number_of_rows(isa: str, dtype: torch.dtype) -> None:
    """Output and gradient of a row have the same bits in batches of 1, 2, 3 ... 100 rows."""
    if isa == "scalar":
        pytest.skip("the reference takes a row at a time")
    x, weight, bias = (t.detach() for t in inputs((100, 330), 300, dtype))
    grad = torch.randn(100, 300, generator=torch.Generator().manual_seed(1)).to(dtype)
    y, grad_x = linear(x, weight, bias), linear(grad, weight.t())
    for rows in range(1, 101):
        first = 7 * rows % (101 - rows)
        part = slice(first, first + rows)
        assert torch.equal(linear(x[part], weight, bias), y[part])
        assert torch.equal(linear(grad[part], weight.t()), grad_x[part])


@pytest.mark.parametrize("rows", [1, 20, 90])
def test_strides_do_not_change_bits(isa: str, rows: int) -> None:
    x, weight, bias = (t.detach() for t in inputs((rows, 75), 50, torch.bfloat16))
    expected = linear(x, weight, bias)
    for layout in ("transposed", "strided"):
        assert torch.equal(linear(laid_out(x, layout), weight, bias), expected)
    assert torch.equal(linear(x, laid_out(weight, "strided"), bias), expected)


def test_error_rule_of_long_bfloat16_sums(isa: str) -> None:
    """One chain over 16384 k's where the level has no blocks: rounding to bfloat16 is still the larger error."""
    x, weight, _ = (t.detach() for t in inputs((40, 16384), 48, torch.bfloat16))
    exact = x.double() @ weight.double().t()
    plain = torch.nn.functional.linear(x, weight)
    assert_as_accurate(linear(x, weight), plain, exact.float())
