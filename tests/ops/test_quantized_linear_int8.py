"""activation="int8" against its integer definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyllm.ops import QuantizedTensor, _library, quantized_linear
from tests.ops.conftest import levels
from tests.ops.numerics import assert_same_bits_at_any_thread_count
from tests.ops.quantized_cases import FORMATS, random_weight
from tests.ops.test_quantized_linear import activations

INTEGERS = [format for format in FORMATS if not format.startswith(("nf4", "fp8"))]


def rounded(x: Tensor, format: str) -> Tensor:
    """x as signed bytes times their scales: one a row for scales per output, otherwise one for 32 inputs."""
    rows = (
        x.float() if format in ("int4", "int8", "int4_zp", "int8_zp") else x.float().unflatten(-1, (-1, 32))
    )
    scale = rows.abs().amax(-1, keepdim=True) / 127
    steps = torch.where(scale > 0, rows * (127 / rows.abs().amax(-1, keepdim=True)), 0.0).round()
    return (steps.double() * scale.double()).reshape(x.shape)


@pytest.mark.parametrize("rows", [1, 3, 9])
@pytest.mark.parametrize("format", INTEGERS)
def test_definition(format: str, rows: int) -> None:
    weight, values = random_weight(format, 37, 512)
    x, bias = activations(rows, 512), activations(37, seed=2)
    exact = rounded(x, format) @ values.double().t() + bias.double()
    y = quantized_linear(x, weight, bias, activation="int8")
    torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))


@pytest.mark.parametrize("format", ["q4_0", "q5_1", "q8_0", "q2_k", "q6_k", "iq4_nl", "int8_zp", "int4_g128"])
def test_every_level_and_batch_gives_the_same_bits(format: str) -> None:
    weight, _ = random_weight(format, 50, 768)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = activations(11, 768, dtype=dtype)
        found = []
        for level in levels():
            with _library.forced_isa(level):
                found.append(quantized_linear(x, weight, activation="int8"))
                assert torch.equal(quantized_linear(x[3:6], weight, activation="int8"), found[-1][3:6])
        assert all(torch.equal(y, found[0]) for y in found)


def test_codes_of_minus_128(isa: str) -> None:
    """The product of bytes that does not fit 16 bits if signs are moved carelessly."""
    weight = QuantizedTensor.from_codes("int8", torch.full((20, 64), -128), torch.ones(20, 1))
    x = torch.ones(1, 64) * torch.tensor([-1.0, 1.0]).repeat(32)
    x[0, :4] = -1.0
    y = quantized_linear(x, weight, activation="int8")
    torch.testing.assert_close(y, (x.sum() * -128).expand(1, 20))


@pytest.mark.parametrize("inputs", [1, 31, 70])
def test_any_number_of_inputs(isa: str, inputs: int) -> None:
    weight, values = random_weight("int8", 5, inputs)
    x = activations(2, inputs)
    y = quantized_linear(x, weight, activation="int8")
    torch.testing.assert_close(y.double(), rounded(x, "int8") @ values.double().t(), rtol=1e-5, atol=1e-5)


def test_bad_values_reach_their_row(isa: str) -> None:
    weight, _ = random_weight("q4_0", 20, 64)
    x = activations(4, 64)
    clean = quantized_linear(x, weight, activation="int8")
    x[1, 7], x[2, 40] = float("nan"), float("inf")
    y = quantized_linear(x, weight, activation="int8")
    assert not y[1:3].isfinite().any()
    assert torch.equal(y[[0, 3]], clean[[0, 3]])


def test_gradients_threads_and_operator() -> None:
    weight, values = random_weight("q8_0", 24, 96)
    x = activations(5, 96).requires_grad_()
    (grad,) = torch.autograd.grad(quantized_linear(x, weight, activation="int8").sum(), x)
    torch.testing.assert_close(grad, values.sum(0).expand(5, 96), rtol=1e-4, atol=1e-5)
    assert_same_bits_at_any_thread_count(lambda: [quantized_linear(x.detach(), weight, activation="int8")])
    arguments = (x.detach(), weight.data, None, "q8_0", 24)
    torch.library.opcheck(torch.ops.pyllm.quantized_linear_int8.default, arguments)


def test_bad_input_is_named() -> None:
    weight, _ = random_weight("q8_0", 8, 64)
    with pytest.raises(ValueError, match="activation must be"):
        quantized_linear(torch.ones(2, 64), weight, activation="int4")
    floats, _ = random_weight("nf4", 8, 64)
    with pytest.raises(ValueError, match="needs a format of integers"):
        quantized_linear(torch.ones(2, 64), floats, activation="int8")
    with pytest.raises(RuntimeError, match="no integers"):
        torch.ops.pyllm.quantized_linear_int8(torch.ones(2, 64), floats.data, None, "nf4", 8)
