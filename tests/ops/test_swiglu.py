from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.ops import activate, glu, swiglu
from pyllm.ops.swiglu import ACTIVATIONS, activate_reference, glu_reference
from tests.ops.numerics import GRADIENT, assert_as_accurate, assert_same_bits_at_any_thread_count, check_op

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1,), (3, 5), (2, 3, 64), (5, 1000), (2, 9001)]


def inputs(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [(scale * torch.randn(shape, generator=g)).to(dtype).requires_grad_() for scale in (3, 1)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_error_rule(isa: str, shape: tuple[int, ...], dtype: torch.dtype, activation: str) -> None:
    check_op(
        lambda g, u: glu(g, u, activation), lambda g, u: glu_reference(g, u, activation), inputs(shape, dtype)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_error_rule_of_plain_activations(isa: str, dtype: torch.dtype, activation: str) -> None:
    for shape in SHAPES:
        x = inputs(shape, dtype)[0]
        check_op(lambda x: activate(x, activation), lambda x: activate_reference(x, activation), [x])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_plain_activation_has_the_bits_of_a_gated_one_by_one(
    isa: str, dtype: torch.dtype, activation: str
) -> None:
    x, grad_out = (t.detach() for t in inputs((5, 1003), dtype))
    one = torch.ones_like(x)
    y = activate(x, activation)
    grad, again = torch.ops.pyllm.activate_backward(grad_out, x, activation)
    assert torch.equal(y, glu(x, one, activation))
    assert torch.equal(y, again)
    assert torch.equal(grad, torch.ops.pyllm.glu_backward(grad_out, x, one, activation)[0])


def exact_activation(x: torch.Tensor, activation: str) -> torch.Tensor:
    """In float64 and without the cancellation that torch's own gelu has in its left tail."""
    if activation == "gelu":
        return x * torch.special.erfc(-x * 0.5**0.5) / 2
    return x * torch.sigmoid(x if activation == "silu" else (8 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_error_rule_in_every_window(isa: str, activation: str) -> None:
    """Unit by unit, so that the errors of small values are not hidden by large ones."""
    for low in range(-9, 9):
        gate = torch.linspace(low, low + 1, 1001, requires_grad=True)
        true_gate = gate.detach().double().requires_grad_()
        ones = torch.ones(1001)
        outputs = [glu(gate, ones, activation), glu_reference(gate, ones, activation)]
        outputs.append(exact_activation(true_gate, activation))
        inputs = (gate, gate, true_gate)
        slopes = [torch.autograd.grad(y.sum(), x)[0] for y, x in zip(outputs, inputs, strict=True)]
        assert_as_accurate(*(y.detach() for y in outputs))
        assert_as_accurate(*slopes, factor=GRADIENT)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(activation: str) -> None:
    arguments = [t.detach().double().requires_grad_() for t in inputs((3, 7), torch.float32)]
    assert torch.autograd.gradcheck(lambda g, u: glu(g, u, activation), arguments)
    assert torch.autograd.gradcheck(lambda x: activate(x, activation), arguments[:1])


def test_opcheck() -> None:
    gate, up = inputs((2, 3, 8), torch.float32)
    torch.library.opcheck(torch.ops.pyllm.glu.default, (gate, up, "gelu"))
    arguments = (torch.ones(2, 3, 8), gate.detach(), up.detach(), "silu")
    torch.library.opcheck(torch.ops.pyllm.glu_backward.default, arguments)
    torch.library.opcheck(torch.ops.pyllm.activate.default, (gate, "gelu_tanh"))
    torch.library.opcheck(
        torch.ops.pyllm.activate_backward.default, (up.detach(), gate.detach(), "gelu_tanh")
    )


def check_compiled(backend: str) -> None:
    def f(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return swiglu(gate * 2, up).sin() + glu(gate, activate(up, "gelu"), "gelu_tanh")

    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend=backend)
    for rows in (3, 5):
        gate, up = inputs((rows, 16), torch.float32)
        torch.testing.assert_close(compiled(gate, up), f(gate, up))
        compiled(gate, up).sum().backward()
        assert gate.grad is not None


def test_compiles_with_dynamic_shapes() -> None:
    check_compiled("aot_eager")


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    check_compiled("inductor")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_same_bits_at_any_thread_count(isa: str, activation: str) -> None:
    gate, up = inputs((50, 1003), torch.bfloat16)

    def run() -> list[torch.Tensor]:
        y = glu(gate, up, activation)
        return [y.detach(), *torch.autograd.grad(y.float().square().sum(), (gate, up))]

    assert_same_bits_at_any_thread_count(run)


@given(
    rows=st.integers(0, 9),
    columns=st.integers(0, 70),
    layout=st.sampled_from(["halves", "strided", "transposed"]),
    activation=st.sampled_from(ACTIVATIONS),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_any_strides(rows: int, columns: int, layout: str, activation: str, seed: int) -> None:
    fused = torch.randn(rows, 2, 2 * columns, generator=torch.Generator().manual_seed(seed))
    if layout == "halves":
        gate, up = fused.chunk(2, dim=-1)
    elif layout == "strided":
        gate, up = fused[..., ::2], fused[..., 1::2]
    else:
        gate, up = (t.transpose(0, 1) for t in fused.chunk(2, dim=-1))
    y = glu(gate, up, activation)
    assert y.is_contiguous()
    assert torch.equal(y, glu(gate.contiguous(), up.contiguous(), activation))
    torch.testing.assert_close(y, glu_reference(gate, up, activation))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_extremes_and_nan(isa: str, activation: str) -> None:
    gate = torch.tensor([1e30, -1e30, 100.0, -100.0, 0.0, float("inf"), float("nan")], requires_grad=True)
    up = torch.ones(7)
    y = glu(gate, up, activation)
    y.sum().backward()
    expected = torch.tensor([1e30, 0, 100, 0, 0, float("inf")])
    torch.testing.assert_close(y[:6].detach(), expected, rtol=0, atol=1e-40)
    assert y[6].isnan()
    assert gate.grad is not None
    torch.testing.assert_close(gate.grad[:5], torch.tensor([1.0, 0.0, 1.0, 0.0, 0.5]), rtol=0, atol=1e-40)
    assert gate.grad[6].isnan()
    assert glu(torch.zeros(3), torch.full((3,), float("nan")), activation).isnan().all()


def test_scalar_tensors() -> None:
    gate, up = torch.tensor(1.5), torch.tensor(2.0)
    torch.testing.assert_close(swiglu(gate, up), glu_reference(gate, up))


def test_autocast_follows_the_input() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert swiglu(torch.randn(2, 8).bfloat16(), torch.ones(2, 8)).dtype == torch.bfloat16


def test_bad_input_is_named() -> None:
    gate, up = torch.randn(2, 8), torch.randn(2, 8)
    with pytest.raises(ValueError, match="up"):
        swiglu(gate, up[:1])
    with pytest.raises(ValueError, match="activation"):
        glu(gate, up, "relu")
    with pytest.raises(TypeError, match="up"):
        swiglu(gate, up.half())
    with pytest.raises(TypeError, match="gate must be"):
        swiglu(gate.long(), up.long())
    with pytest.raises(RuntimeError, match="activation"):
        torch.ops.pyllm.glu(gate, up, "relu")
