from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.ops import linear
from pyllm.ops.linear import linear_reference
from tests.ops.numerics import assert_as_accurate, assert_same_bits_at_any_thread_count, check_op

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# (shape of x, out): single rows, tails of strips and panels, several depth blocks, rows cut into tasks
SHAPES = [((1, 4), 3), ((5,), 7), ((2, 3, 64), 48), ((13, 300), 33), ((100, 70), 130), ((3, 576), 100)]


def inputs(shape: tuple[int, ...], out: int, dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = [shape, (out, shape[-1]), (out,)]
    return [torch.randn(s, generator=g).to(dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "out"), SHAPES, ids=str)
def test_error_rule(isa: str, shape: tuple[int, ...], out: int, dtype: torch.dtype) -> None:
    x, weight, bias = inputs(shape, out, dtype)
    check_op(linear, linear_reference, [x, weight, bias])
    check_op(linear, linear_reference, [x, weight])


@pytest.mark.parametrize("rows", [1, 2, 8, 40])
@pytest.mark.parametrize("depth", [64, 256, 257, 576, 1100, 2048, 16384])
def test_error_rule_of_float32_sums(isa: str, rows: int, depth: int) -> None:
    """Short and long chains of every kernel; plain PyTorch is most accurate where the rows are few."""
    x, weight, _ = inputs((rows, depth), 16 if isa == "scalar" else 100, torch.float32)
    exact = linear_reference(x.detach().double(), weight.detach().double())
    assert_as_accurate(linear(x, weight).detach(), linear_reference(x, weight).detach(), exact)


def test_error_rule_of_long_sums() -> None:
    x, weight, bias = inputs((7, 9000), 5, torch.float32)
    check_op(linear, linear_reference, [x, weight, bias])
    x, weight, bias = inputs((9000, 7), 5, torch.float32)
    check_op(linear, linear_reference, [x, weight, bias])


def test_gradcheck() -> None:
    x, weight, bias = (t.detach().double().requires_grad_() for t in inputs((2, 3, 5), 4, torch.float32))
    assert torch.autograd.gradcheck(linear, (x, weight, bias))
    assert torch.autograd.gradgradcheck(linear, (x, weight, bias))


def test_opcheck() -> None:
    x, weight, bias = inputs((2, 3, 8), 5, torch.float32)
    torch.library.opcheck(torch.ops.pyllm.linear.default, (x, weight, bias))
    torch.library.opcheck(torch.ops.pyllm.linear.default, (x[0], weight, None))
    lowered = tuple(t.detach().bfloat16().requires_grad_() for t in (x, weight, bias))
    torch.library.opcheck(torch.ops.pyllm.linear.default, (*lowered, True))
    transposed = weight.detach().t().contiguous().t()
    torch.library.opcheck(torch.ops.pyllm.linear.default, (x.detach().transpose(0, 1), transposed, None))


def check_compiled(backend: str) -> None:
    def f(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return linear(x * 2, w, b).sin()

    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend=backend)
    for rows in (3, 5):
        ours, theirs = (inputs((2, rows, 16), 6, torch.float32) for _ in range(2))
        torch.testing.assert_close(compiled(*ours), f(*theirs))
        compiled(*ours).sum().backward()
        f(*theirs).sum().backward()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a.grad, b.grad)


def test_compiles_with_dynamic_shapes() -> None:
    check_compiled("aot_eager")


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    check_compiled("inductor")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(500, 96), (2, 300), (7, 1500), (40, 1500)], ids=str)
def test_same_bits_at_any_thread_count(isa: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight, bias = inputs(shape, 80 if isa == "scalar" else 200, dtype)

    def run() -> list[torch.Tensor]:
        y = linear(x, weight, bias)
        return [y.detach(), *torch.autograd.grad(y.float().square().sum(), (x, weight, bias))]

    assert_same_bits_at_any_thread_count(run)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_does_not_see_its_batch(isa: str, dtype: torch.dtype) -> None:
    """Output and gradient of a row are equal to the bit alone and in batches of 2, 13 and 100 rows."""
    x, weight, bias = inputs((100, 600), 70, dtype)
    grad = torch.randn(100, 70, generator=torch.Generator().manual_seed(1)).to(dtype)

    def run(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = x.detach()[first : first + count].clone().requires_grad_()
        y = linear(rows, weight, bias)
        return y.detach(), torch.autograd.grad(y, rows, grad[first : first + count])[0]

    whole = run(0, 100)
    for first, count in [(0, 1), (99, 1), (50, 2), (7, 13), (20, 3), (96, 4)]:
        for part, all_rows in zip(run(first, count), whole, strict=True):
            assert torch.equal(part, all_rows[first : first + count])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("depth", "out"), [(100, 300), (300, 1100), (2100, 50)])
def test_any_number_of_rows_gives_the_same_bits(isa: str, depth: int, out: int, dtype: torch.dtype) -> None:
    """Forward and input gradient of 1 to 300 rows, which take every path, against the whole batch."""
    if isa == "scalar":
        depth, out = depth // 20, out // 20
    x, weight, _ = (t.detach() for t in inputs((300, depth), out, dtype))
    grad = torch.randn(300, out, generator=torch.Generator().manual_seed(1)).to(dtype)
    y, grad_x = linear(x, weight), linear(grad, weight.t())
    for count in (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 33, 100, 299):
        for first in (0, 300 - count):
            rows = slice(first, first + count)
            assert torch.equal(linear(x[rows], weight), y[rows])
            assert torch.equal(linear(grad[rows], weight.t()), grad_x[rows])


@given(
    rows=st.integers(0, 40),
    depth=st.integers(0, 40) | st.integers(250, 600),
    out=st.integers(0, 70),
    layout=st.sampled_from(["plain", "transposed", "strided"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_any_strides(rows: int, depth: int, out: int, layout: str, seed: int) -> None:
    x, weight, bias = (t.detach() for t in inputs((rows, depth), out, torch.float32, seed))
    expected = linear(x, weight, bias)
    torch.testing.assert_close(expected, linear_reference(x, weight, bias), rtol=1e-5, atol=1e-4)
    if layout == "transposed":
        x = x.t().contiguous().t()
        # A weight contiguous along its columns has an order of sums of its own.
        torch.testing.assert_close(
            linear(x, weight.t().contiguous().t(), bias), expected, rtol=1e-5, atol=1e-4
        )
    if layout == "strided":
        x, weight = (t.repeat_interleave(2, 1)[:, ::2] for t in (x, weight))
        bias = bias.repeat_interleave(2)[::2]
    assert torch.equal(linear(x, weight, bias), expected)


def test_zero_sizes_and_nan(isa: str) -> None:
    assert linear(torch.empty(0, 4), torch.ones(3, 4)).shape == (0, 3)
    assert torch.equal(linear(torch.empty(2, 0), torch.empty(3, 0), torch.ones(3)), torch.ones(2, 3))
    x, weight, _ = inputs((0, 4), 3, torch.float32)
    linear(x, weight).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.zeros(3, 4))
    x, weight = torch.ones(20, 40), torch.ones(50, 40)
    x[3, 39] = float("nan")
    weight[49, 0] = float("inf")
    y = linear(x, weight)
    assert y[3].isnan().all()
    assert y[:3, 49].isinf().all()
    assert torch.isfinite(y[4:, :49]).all()


def test_follows_the_weight() -> None:
    """No copy of the weight is kept: changes in place, under inference mode and after deepcopy, are seen."""
    x, weight = torch.ones(1, 4), torch.ones(3, 4)
    assert linear(x, weight).eq(4).all()
    weight.data.mul_(2)
    assert linear(x, weight).eq(8).all()
    with torch.inference_mode():
        inference_weight = torch.ones(3, 4)
        linear(x, inference_weight)
        inference_weight.mul_(3)
        assert linear(x, inference_weight).eq(12).all()
    other = copy.deepcopy(weight).add_(1)
    assert linear(x, other).eq(12).all()


@pytest.mark.parametrize("rows", [1, 3, 50])
def test_follows_every_change_of_the_weight(rows: int) -> None:
    """An optimizer's step, a copy under no_grad, a write through a view, new storage, a transposed twin."""
    x = torch.randn(rows, 300, generator=torch.Generator().manual_seed(1))
    weight = torch.nn.Parameter(torch.randn(70, 300, generator=torch.Generator().manual_seed(2)))

    def check() -> None:
        now = weight.detach().clone()
        assert torch.equal(linear(x, weight), linear(x, now))
        torch.testing.assert_close(linear(x, weight), linear_reference(x, now), rtol=1e-5, atol=1e-3)

    optimizer = torch.optim.SGD([weight], lr=1e-3)
    for _ in range(2):
        linear(x, weight).square().sum().backward()
        optimizer.step()
        check()
    with torch.no_grad():
        weight.copy_(torch.ones_like(weight))
    check()
    weight.detach().view(-1)[5:9] = 7
    check()
    weight.data = torch.full_like(weight, 3)
    check()
    weight.data = weight.data.t().contiguous().t()
    check()


def test_more_elements_than_32_bits_count() -> None:
    """Pages of zeros that nobody writes cost no memory."""
    try:
        weight = torch.zeros(2**16 + 3, 2**15, dtype=torch.bfloat16)
    except RuntimeError:
        pytest.skip("4 GB of address space are not to be had")
    weight[-1] = 1
    assert linear(torch.ones(1, 2**15, dtype=torch.bfloat16), weight)[0, -1] == 2**15
    grad = torch.zeros(1, 2**16 + 3, dtype=torch.bfloat16)
    grad[0, -1] = 2
    assert linear(grad, weight.t()).eq(2).all()
    x = weight.view(-1).as_strided((2, 300), (2**31 + 2**15 + 2**15 - 300, 1), 2**15)
    assert linear(x, torch.ones(20, 300, dtype=torch.bfloat16)).eq(torch.tensor([[0.0], [300.0]])).all()


def test_autocast_lowers() -> None:
    x, weight, bias = inputs((2, 8), 3, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(x, weight, bias)
        assert linear(x.bfloat16(), weight).dtype == torch.bfloat16
        assert linear(x, weight, bias, out_dtype=torch.float32).dtype == torch.float32
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [2, 40])
def test_float32_out(isa: str, rows: int, dtype: torch.dtype) -> None:
    """The sums before rounding: as accurate as a float32 product, and y once rounded; gradients as for y."""
    x, weight, bias = inputs((rows, 300), 70, dtype)
    y = linear(x, weight, bias, out_dtype=torch.float32)
    assert torch.equal(y.to(dtype), linear(x, weight, bias))
    wide = [t.detach().double() for t in (x, weight, bias)]
    plain = linear_reference(x, weight, bias, out_dtype=torch.float32)
    assert_as_accurate(y.detach(), plain.detach(), linear_reference(*wide))
    grad = torch.randn(rows, 70, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad(y, (x, weight, bias), grad)
    rounded = torch.autograd.grad(linear(x, weight, bias), (x, weight, bias), grad.to(dtype))
    assert all(torch.equal(a, b) for a, b in zip(ours, rounded, strict=True))


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="weight"):
        linear(torch.randn(2, 8), torch.ones(3, 7))
    with pytest.raises(ValueError, match="bias"):
        linear(torch.randn(2, 8), torch.ones(3, 8), torch.ones(8))
    with pytest.raises(TypeError, match="weight"):
        linear(torch.randn(2, 8), torch.ones(3, 8).half())
    with pytest.raises(TypeError, match="bias"):
        linear(torch.randn(2, 8), torch.ones(3, 8), torch.ones(3).half())
    for x, out_dtype in [(torch.ones(2, 8), torch.bfloat16), (torch.ones(2, 8).double(), torch.float32)]:
        with pytest.raises(TypeError, match="out_dtype"):
            linear(x, torch.ones(3, 8, dtype=x.dtype), out_dtype=out_dtype)
    with pytest.raises(TypeError, match="x must be"):
        linear(torch.ones(2, 8, dtype=torch.int64), torch.ones(3, 8))
    with pytest.raises(RuntimeError, match="weight"):
        torch.ops.pyllm.linear(torch.randn(2, 8), torch.ones(3, 7), None)
