"""grouped_linear: every expert's rows through its own weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyllm.ops import QuantizedTensor, grouped_linear
from pyllm.ops.grouped_linear import grouped_linear_reference
from tests.ops.numerics import GRADIENT, assert_as_accurate, assert_same_bits_at_any_thread_count
from tests.ops.quantized_cases import random_weight
from tests.ops.test_quantized_linear import activations

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Rows of experts: none, one, few, and more than any path calls few.
COUNTS = (0, 1, 5, 0, 70, 17, 2)


def offsets_of(counts: tuple[int, ...] | list[int]) -> Tensor:
    return torch.tensor([0, *counts]).cumsum(0)


def owners(counts: tuple[int, ...] | list[int]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_dense_experts_and_their_gradients(counts: list[int]) -> None:
    tokens, offsets = sum(counts), offsets_of(counts)
    weights = activations(len(counts), 12, 20, seed=5).requires_grad_()
    x = activations(tokens, 20).requires_grad_()
    y = grouped_linear(x, weights, offsets)
    expected = torch.einsum("ti,toi->to", x.double(), weights.double()[owners(counts)])
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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_rule(isa: str, dtype: torch.dtype) -> None:
    offsets, rows = offsets_of(COUNTS), owners(COUNTS)
    x, weights = (
        activations(len(rows), 130, dtype=dtype),
        activations(len(COUNTS), 500, 130, dtype=dtype, seed=2),
    )
    grad = activations(len(rows), 500, dtype=dtype, seed=3)
    wide = torch.float64 if dtype == torch.float32 else torch.float32

    def plain(x: Tensor, weights: Tensor, grad: Tensor) -> list[Tensor]:
        x, weights = x.clone().requires_grad_(), weights.clone().requires_grad_()
        y = torch.cat([x[rows == e] @ weights[e].t() for e in range(len(COUNTS))])
        return [y.detach(), *torch.autograd.grad(y, (x, weights), grad)]

    leaves = x.clone().requires_grad_(), weights.clone().requires_grad_()
    y = grouped_linear(*leaves, offsets)
    ours = [y.detach(), *torch.autograd.grad(y, leaves, grad)]
    exact = plain(x.to(wide), weights.to(wide), grad.to(wide))
    assert_as_accurate(ours[0], plain(x, weights, grad)[0], exact[0])
    for mine, theirs, reference in zip(ours[1:], plain(x, weights, grad)[1:], exact[1:], strict=True):
        assert_as_accurate(mine, theirs, reference, GRADIENT)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_are_those_of_one_call_per_expert(isa: str, dtype: torch.dtype) -> None:
    offsets = offsets_of(COUNTS)
    tokens = int(offsets[-1])

    def run(function: object, weights: Tensor | list[QuantizedTensor]) -> list[Tensor]:
        x = activations(tokens, 512, dtype=dtype).requires_grad_()
        leaves = [x, weights.requires_grad_()] if isinstance(weights, Tensor) else [x]
        y = function(x, weights, offsets)  # type: ignore[operator]
        return [y, *torch.autograd.grad(y, leaves, activations(*y.shape, dtype=dtype, seed=4))]

    formats = ("q4_k", "q4_0", "q8_0", "q6_k", "nf4", "fp8_e4m3", "int8")
    quantized = [random_weight(format, 200, 512, seed)[0] for seed, format in enumerate(formats)]
    dense = activations(len(COUNTS), 900, 512, dtype=dtype, seed=2)
    for weights in (dense, quantized, quantized[:1] * len(COUNTS)):
        for mine, theirs in zip(
            run(grouped_linear, weights), run(grouped_linear_reference, weights), strict=True
        ):
            assert torch.equal(mine, theirs)


def test_same_bits_at_any_thread_count(isa: str) -> None:
    offsets = offsets_of(COUNTS)
    weights = activations(len(COUNTS), 400, 96, seed=2).bfloat16().requires_grad_()
    quantized = [random_weight("q4_0", 400, 96, seed)[0] for seed in range(len(COUNTS))]
    x = activations(int(offsets[-1]), 96, dtype=torch.bfloat16).requires_grad_()

    def run() -> list[Tensor]:
        y, z = grouped_linear(x, weights, offsets), grouped_linear(x, quantized, offsets)
        return [y, z, *torch.autograd.grad((y * z).float().sum(), (x, weights))]

    assert_same_bits_at_any_thread_count(run)


def test_company_does_not_change_a_row(isa: str) -> None:
    weights, x = activations(2, 33, 64, seed=2).bfloat16(), activations(50, 64).bfloat16()
    crowded = grouped_linear(x, weights, torch.tensor([0, 20, 50]))
    alone = grouped_linear(x[19:21], weights, torch.tensor([0, 1, 2]))
    assert torch.equal(alone, crowded[19:21])


def test_any_strides(isa: str) -> None:
    offsets, x, weights = torch.tensor([0, 4, 9]), activations(9, 40), activations(2, 30, 40, seed=2)
    y = grouped_linear(x, weights, offsets)
    assert torch.equal(grouped_linear(activations(9, 80)[:, ::2].copy_(x), weights, offsets), y)
    assert torch.equal(
        grouped_linear(x, weights.repeat_interleave(2, 0).repeat(1, 1, 2)[::2, :, :40], offsets), y
    )
    torch.testing.assert_close(
        grouped_linear(x.t().contiguous().t(), weights, offsets), y, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        grouped_linear(x, weights.mT.contiguous().mT, offsets), y, rtol=1e-4, atol=1e-5
    )
    shared = grouped_linear(x, weights[:1].expand(2, -1, -1), offsets.int())
    torch.testing.assert_close(shared, x @ weights[0].t(), rtol=1e-4, atol=1e-5)


def test_permuted_columns() -> None:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(-8, 8, (24, 128), generator=generator)
    scales, index = torch.rand(24, 4, generator=generator), torch.randperm(128, generator=generator) // 32
    weight = QuantizedTensor.from_codes("int4", codes, scales, group_index=index)
    x = activations(6, 128)
    y = grouped_linear(x, [weight, weight], torch.tensor([0, 2, 6]))
    torch.testing.assert_close(y, x @ (codes * scales[:, index]).t(), rtol=1e-4, atol=1e-4)


def test_gradcheck() -> None:
    offsets = torch.tensor([0, 2, 2, 5])
    x, weights = (
        activations(5, 4).double().requires_grad_(),
        activations(3, 6, 4, seed=2).double().requires_grad_(),
    )
    assert torch.autograd.gradcheck(lambda x, w: grouped_linear(x, w, offsets), (x, weights))
    assert torch.autograd.gradgradcheck(lambda x, w: grouped_linear(x, w, offsets), (x, weights))
    quantized = [random_weight("int8", 6, 4, seed)[0] for seed in range(3)]
    assert torch.autograd.gradcheck(lambda x: grouped_linear(x, quantized, offsets), (x,))
    assert torch.autograd.gradgradcheck(lambda x: grouped_linear(x, quantized, offsets), (x,))


def test_opcheck() -> None:
    offsets, x = torch.tensor([0, 2, 2, 5]), activations(5, 64).requires_grad_()
    weights, grad = activations(3, 6, 64, seed=2).requires_grad_(), activations(5, 6, seed=3)
    quantized = [random_weight("int8", 6, 64, seed)[0] for seed in range(3)]
    data, formats = [weight.data for weight in quantized], ["int8"] * 3
    ops = torch.ops.pyllm
    torch.library.opcheck(ops.grouped_linear.default, (x, weights, offsets))
    torch.library.opcheck(ops.grouped_linear_grad_weight.default, (grad, x.detach(), offsets))
    torch.library.opcheck(ops.grouped_quantized_linear.default, (x, data, offsets, formats, 6))
    torch.library.opcheck(ops.grouped_quantized_linear_grad.default, (grad, data, offsets, formats, 64))


def test_compile_with_dynamic_shapes() -> None:
    quantized = [random_weight("q4_0", 24, 64, seed)[0] for seed in range(2)]
    weights = activations(2, 64, 24, seed=2)

    def two_layers(x: Tensor, offsets: Tensor) -> Tensor:
        return grouped_linear(grouped_linear(x, quantized, offsets), weights, offsets)

    compiled = torch.compile(two_layers, fullgraph=True, dynamic=True, backend="aot_eager")
    for counts in ((3, 4), (0, 9)):
        x, offsets = activations(sum(counts), 64), offsets_of(counts)
        assert torch.equal(compiled(x, offsets), two_layers(x, offsets))


def test_autocast() -> None:
    offsets, x, weights = torch.tensor([0, 2, 5]), activations(5, 64), activations(2, 6, 64, seed=2)
    quantized = [random_weight("int8", 6, 64, seed)[0] for seed in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        dense, packed = grouped_linear(x, weights, offsets), grouped_linear(x, quantized, offsets)
    assert torch.equal(dense, grouped_linear(x.bfloat16(), weights.bfloat16(), offsets))
    assert torch.equal(packed, grouped_linear(x.bfloat16(), quantized, offsets))


@pytest.mark.parametrize("inputs", [8, 0])
@pytest.mark.parametrize("outputs", [3, 0])
@pytest.mark.parametrize("counts", [(2, 0), (0, 0)])
def test_zero_sizes(isa: str, counts: tuple[int, ...], outputs: int, inputs: int) -> None:
    x = torch.ones(sum(counts), inputs, requires_grad=True)
    weights = torch.ones(2, outputs, inputs, requires_grad=True)
    y = grouped_linear(x, weights, offsets_of(counts))
    assert torch.equal(y.detach(), torch.full((sum(counts), outputs), float(inputs)))
    grad_x, grad_weights = torch.autograd.grad(y.sum(), (x, weights))
    assert torch.equal(grad_x, torch.full_like(x, float(outputs)))
    for expert, count in enumerate(counts):
        assert torch.equal(grad_weights[expert], torch.full((outputs, inputs), float(count)))


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
    with pytest.raises(TypeError, match="weights"):
        grouped_linear(x.half(), weights, torch.tensor([0, 2, 4]))


def test_direct_calls_never_read_outside() -> None:
    x, weights, ops = torch.ones(4, 8), torch.ones(2, 3, 8), torch.ops.pyllm
    for offsets in ([0, 2], [0, 3, 2], [0, 2, 5], [-1, 2, 4], [0, 1 << 62, 4]):
        with pytest.raises(RuntimeError, match="offsets must"):
            ops.grouped_linear(x, weights, torch.tensor(offsets))
        with pytest.raises(RuntimeError, match="offsets must"):
            ops.grouped_linear_grad_weight(x, x, torch.tensor([*offsets[:-1], 9]))
    weight = random_weight("int8", 3, 8)[0]
    for data, formats in (
        ([weight.data], ["int8"]),
        ([weight.data] * 2, ["int8"]),
        ([weight.data, weight.data[1:]], ["int8"] * 2),
        ([weight.data] * 2, ["int8", "int9"]),
    ):
        with pytest.raises(RuntimeError, match=r"data|format"):
            ops.grouped_quantized_linear(x, data, torch.tensor([0, 2, 4]), formats, 3)
