"""llm_int8_linear against its definition in plain torch, and against bitsandbytes'."""

from __future__ import annotations

import bitsandbytes  # type: ignore[import-untyped]  # noqa: F401 - registers its operators
import pytest
import torch
from torch import Tensor

from pyllm.ops import QuantizedTensor, llm_int8_linear, quantized_linear
from tests.ops.numerics import assert_as_accurate
from tests.ops.quantized_cases import random_weight
from tests.ops.test_quantized_linear import activations


def with_outliers(rows: int, inputs: int, columns: list[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal values below the threshold, and columns that lie above it in every row."""
    x = activations(rows, inputs).clamp(-5, 5)
    x[:, columns] = 20 * x[:, columns].sign() + x[:, columns]
    return x.to(dtype)


def definition(x: Tensor, values: Tensor, bias: Tensor, threshold: float) -> Tensor:
    """In float64: rounding of bytes as float32 does it, everything else exact."""
    outliers = (x.abs() >= threshold).any(0)
    inner = torch.where(outliers, 0.0, x.float())
    most = inner.abs().amax(1, keepdim=True)
    rounded = (inner * (127 / most)).round().double() * (most / 127).double()
    return (rounded + torch.where(outliers, x.double(), 0.0)) @ values.double().t() + bias.double()


@pytest.mark.parametrize("format", ["int8", "int8_zp"])
@pytest.mark.parametrize(("rows", "columns"), [(1, [3]), (7, [0, 100, 255]), (5, [])])
def test_definition(isa: str, format: str, rows: int, columns: list[int]) -> None:
    weight, values = random_weight(format, 37, 256)
    x, bias = with_outliers(rows, 256, columns), activations(37, seed=2)
    exact = definition(x, values, bias, 6.0)
    y = llm_int8_linear(x, weight, bias)
    torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))


def test_bitsandbytes_agrees() -> None:
    x, dense = with_outliers(9, 512, [5, 77, 400], torch.float16), activations(48, 512, seed=3).half()
    codes, scales, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(dense, 0.0)
    rows, row_scales, columns = torch.ops.bitsandbytes.int8_vectorwise_quant(x.clone(), 6.0)
    theirs, _ = torch.ops.bitsandbytes.int8_mixed_scaled_mm(x, rows, codes, row_scales, scales, columns)
    weight = QuantizedTensor.from_codes("int8", codes, scales[:, None] / 127)
    values = codes.double() * (scales[:, None] / 127).double()
    exact = definition(x, values, torch.zeros(48), 6.0)
    assert_as_accurate(llm_int8_linear(x, weight), theirs, exact)


def test_without_outliers_it_is_w8a8() -> None:
    weight, _ = random_weight("int8", 20, 96)
    x = activations(4, 96)
    w8a8 = quantized_linear(x, weight, activation="int8")
    assert torch.equal(llm_int8_linear(x, weight), w8a8)
    assert torch.equal(
        llm_int8_linear(50 * x, weight, threshold=float("inf")),
        quantized_linear(50 * x, weight, activation="int8"),
    )


def test_gradients_are_those_of_the_exact_layer() -> None:
    weight, values = random_weight("int8", 20, 96)
    x, bias = with_outliers(4, 96, [1, 50]).requires_grad_(), activations(20).requires_grad_()
    grads = torch.autograd.grad(llm_int8_linear(x, weight, bias).sum(), (x, bias))
    torch.testing.assert_close(grads[0], values.sum(0).expand(4, 96), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grads[1], torch.full((20,), 4.0))


def test_leading_dimensions_and_bfloat16() -> None:
    weight, _ = random_weight("int8", 20, 96)
    x = with_outliers(6, 96, [2], torch.bfloat16)
    y = llm_int8_linear(x.reshape(2, 3, 96), weight)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y.reshape(6, 20), llm_int8_linear(x.float(), weight).bfloat16())


def test_bad_input_is_named() -> None:
    weight, _ = random_weight("int8", 8, 64)
    grouped, _ = random_weight("q8_0", 8, 64)
    x = torch.ones(2, 64)
    with pytest.raises(ValueError, match="weight must have 8-bit integers"):
        llm_int8_linear(x, grouped)
    with pytest.raises(ValueError, match="weight must have 8-bit integers"):
        llm_int8_linear(x, torch.ones(8, 64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threshold must be positive"):
        llm_int8_linear(x, weight, threshold=0.0)
    with pytest.raises(TypeError, match="bias must have the dtype"):
        llm_int8_linear(x, weight, torch.ones(8).half())
    with pytest.raises(ValueError, match="weight must have shape"):
        llm_int8_linear(torch.ones(2, 32), weight)
