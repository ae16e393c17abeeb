"""quantized_linear against the exact weight, in every format."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pyllm.ops import quantized_linear
from pyllm.ops.quantized_tensor import QuantizedTensor
from tests.ops.numerics import GRADIENT, assert_as_accurate, assert_same_bits_at_any_thread_count
from tests.ops.quantized_cases import FORMATS, random_weight

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# One for each way of unpacking and of scaling.
KINDS = (
    "q4_0",
    "q5_1",
    "q8_0",
    "q2_k",
    "q3_k",
    "q4_k",
    "q6_k",
    "iq4_xs",
    "mxfp4",
    "nf4",
    "fp8_e4m3",
    "int8_zp",
)


def activations(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check(format: str, dtype: torch.dtype, rows: int, outputs: int, inputs: int) -> None:
    """The error rule, forward and grad x: plain PyTorch gets the weight rounded to its dtype."""
    weight, values = random_weight(format, outputs, inputs)
    wide = torch.float64 if dtype == torch.float32 else torch.float32
    x, bias = activations(rows, inputs, dtype=dtype), activations(outputs, dtype=dtype, seed=2)
    grad = activations(rows, outputs, dtype=dtype, seed=3)
    leaf = x.clone().requires_grad_()
    y = quantized_linear(leaf, weight, bias)
    y.backward(grad)
    assert leaf.grad is not None
    plain = F.linear(x, values.to(dtype), bias)
    exact = F.linear(x.to(wide), values.to(wide), bias.to(wide))
    assert_as_accurate(y.detach(), plain, exact)
    assert_as_accurate(leaf.grad, grad @ values.to(dtype), grad.to(wide) @ values.to(wide), GRADIENT)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("format", FORMATS)
def test_error_rule_of_every_format(format: str, dtype: torch.dtype) -> None:
    check(format, dtype, 5, 40, 512)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 64])
@pytest.mark.parametrize("format", ["q4_k", "q8_0", "q6_k"])
def test_error_rule_of_any_rows(isa: str, format: str, rows: int) -> None:
    check(format, torch.bfloat16, rows, 130, 1280)


@pytest.mark.parametrize("inputs", [1, 31, 33, 300])
@pytest.mark.parametrize("format", ["int4_g32_zp", "int8", "nf4", "int4_g128"])
def test_error_rule_of_any_inputs(isa: str, format: str, inputs: int) -> None:
    check(format, torch.float32, 3, 21, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("format", KINDS)
def test_a_row_does_not_depend_on_its_neighbours(isa: str, format: str, dtype: torch.dtype) -> None:
    weight, _ = random_weight(format, 50, 768)
    x, grad = activations(37, 768, dtype=dtype), activations(37, 50, dtype=dtype)
    together = quantized_linear(x, weight)
    gradients = torch.ops.pyllm.quantized_linear_grad(grad, weight.data, format, 768)
    for first, last in ((0, 1), (36, 37), (3, 5), (4, 7), (10, 26)):
        assert torch.equal(quantized_linear(x[first:last], weight), together[first:last])
        alone = torch.ops.pyllm.quantized_linear_grad(grad[first:last], weight.data, format, 768)
        assert torch.equal(alone, gradients[first:last])


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("format", ["q4_0", "q6_k", "nf4"])
def test_same_bits_at_any_thread_count(isa: str, format: str, rows: int) -> None:
    weight, _ = random_weight(format, 200, 1024)
    x = activations(rows, 1024, dtype=torch.bfloat16).requires_grad_()

    def run() -> list[Tensor]:
        y = quantized_linear(x, weight)
        return [y.detach(), *torch.autograd.grad(y.float().square().sum(), x)]

    assert_same_bits_at_any_thread_count(run)


def test_float64_and_gradcheck() -> None:
    weight, values = random_weight("q4_k", 6, 256)
    x, bias = activations(3, 256).double().requires_grad_(), activations(6).double().requires_grad_()
    torch.testing.assert_close(quantized_linear(x, weight, bias), F.linear(x, values.double(), bias))
    assert torch.autograd.gradcheck(lambda x, b: quantized_linear(x[:, :256], weight, b), (x, bias))
    assert torch.autograd.gradgradcheck(lambda x: quantized_linear(x, weight), (x,))


@pytest.mark.parametrize("inputs", [64, 0])
@pytest.mark.parametrize("outputs", [48, 0])
@pytest.mark.parametrize("rows", [2, 0])
def test_zero_sizes(isa: str, rows: int, outputs: int, inputs: int) -> None:
    codes = torch.ones(outputs, inputs, dtype=torch.int8)
    weight = QuantizedTensor.from_codes("int8", codes, torch.ones(outputs, min(inputs, 1)))
    x = torch.ones(rows, inputs, requires_grad=True)
    y = quantized_linear(x, weight)
    assert torch.equal(y.detach(), torch.full((rows, outputs), float(inputs)))
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, torch.full((rows, inputs), float(outputs)))


def test_any_strides(isa: str) -> None:
    weight, _ = random_weight("q4_0", 33, 96)
    base = activations(6, 5, 192)
    for x in (
        base[..., ::2],
        base[..., :96],
        base.transpose(0, 1)[..., 96:],
        base[0, :, 5:101],
        base[0, 0, :96],
    ):
        assert torch.equal(quantized_linear(x, weight), quantized_linear(x.contiguous(), weight))


def test_bad_values_stay_in_their_row(isa: str) -> None:
    weight, _ = random_weight("q4_k", 20, 256)
    x = activations(5, 256)
    clean = quantized_linear(x, weight)
    x[2, 7], x[3, 9] = float("nan"), float("inf")
    y = quantized_linear(x, weight)
    assert y[2].isnan().all()
    assert not y[3].isfinite().any()
    assert torch.equal(y[[0, 1, 4]], clean[[0, 1, 4]])


@pytest.mark.parametrize("power", [-90, -61, 60])
@pytest.mark.parametrize("format", ["q4_0", "q4_1", "q6_k", "q8_0"])
def test_powers_of_two_change_no_other_bit(isa: str, format: str, power: int) -> None:
    weight, _ = random_weight(format, 40, 512)
    x = activations(5, 512)
    assert torch.equal(quantized_linear(x * 2.0**power, weight), quantized_linear(x, weight) * 2.0**power)


@pytest.mark.parametrize("format", ["q4_0", "q4_1", "q5_k", "q6_k", "q2_k"])
def test_error_rule_beside_outliers(isa: str, format: str) -> None:
    weight, values = random_weight(format, 40, 512)
    x = activations(5, 512)
    x[:, ::57] *= 3000
    x[:, 128:192] *= 1e-6
    plain, exact = F.linear(x, values), F.linear(x.double(), values.double())
    assert_as_accurate(quantized_linear(x, weight), plain, exact)


def test_scattered_groups_take_x_in_their_order() -> None:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(-8, 8, (24, 128), generator=generator)
    scales, index = torch.rand(24, 4, generator=generator), torch.randperm(128, generator=generator) // 32
    weight = QuantizedTensor.from_codes("int4", codes, scales, group_index=index)
    x = activations(3, 128).requires_grad_()
    y = quantized_linear(x, weight)
    values = codes * scales[:, index]
    assert_as_accurate(y.detach(), x.detach() @ values.t(), x.detach().double() @ values.double().t())
    torch.testing.assert_close(
        torch.autograd.grad(y.sum(), x)[0], values.sum(0).expand(3, 128), rtol=0, atol=1e-4
    )


def test_opcheck() -> None:
    weight, _ = random_weight("q4_0", 8, 64)
    x, bias = activations(2, 3, 64).requires_grad_(), activations(8).requires_grad_()
    ops = torch.ops.pyllm
    torch.library.opcheck(ops.quantized_linear.default, (x, weight.data, bias, "q4_0", 8))
    torch.library.opcheck(ops.quantized_linear_grad.default, (activations(2, 8), weight.data, "q4_0", 64))
    torch.library.opcheck(ops.quantized_unpack.default, (weight.data, "q4_0", 8, 64, torch.bfloat16))


def check_compiled(backend: str) -> None:
    weight, _ = random_weight("q4_k", 16, 256)
    bias = activations(16)

    def f(x: Tensor) -> Tensor:
        return quantized_linear(x * 2, weight, bias).relu()

    compiled: Callable[[Tensor], Tensor] = torch.compile(f, fullgraph=True, dynamic=True, backend=backend)
    for rows in (3, 5):
        x = activations(rows, 256).requires_grad_()
        torch.testing.assert_close(compiled(x), f(x))
        compiled(x).sum().backward()
        assert x.grad is not None


def test_compiles_with_dynamic_shapes() -> None:
    check_compiled("aot_eager")


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    check_compiled("inductor")


def test_autocast_lowers() -> None:
    weight, _ = random_weight("q8_0", 8, 64)
    x, bias = activations(2, 64), activations(8)
    with torch.autocast("cpu", torch.bfloat16):
        y = quantized_linear(x, weight, bias)
    assert torch.equal(y, quantized_linear(x.bfloat16(), weight, bias.bfloat16()))


def test_bad_input_is_named() -> None:
    weight, _ = random_weight("q8_0", 8, 64)
    with pytest.raises(TypeError, match="weight must be a QuantizedTensor"):
        quantized_linear(torch.ones(2, 64), torch.ones(8, 64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight must have shape"):
        quantized_linear(torch.ones(2, 32), weight)
    with pytest.raises(ValueError, match="bias must have shape"):
        quantized_linear(torch.ones(2, 64), weight, torch.ones(7))
    with pytest.raises(TypeError, match="bias must have the dtype"):
        quantized_linear(torch.ones(2, 64), weight, torch.ones(8).half())
    with pytest.raises(TypeError, match="x must be"):
        quantized_linear(torch.ones(2, 64).long(), weight)
    for call in (
        lambda: torch.ops.pyllm.quantized_linear(torch.ones(2, 32), weight.data, None, "q8_0", 8),
        lambda: torch.ops.pyllm.quantized_linear(torch.ones(2, 64), weight.data, torch.ones(9), "q8_0", 8),
        lambda: torch.ops.pyllm.quantized_linear_grad(torch.ones(2, 24), weight.data, "q8_0", 64),
    ):
        with pytest.raises(RuntimeError, match="pyllm::quantized"):
            call()
