from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.ops import gradient_norm
from tests.ops.numerics import assert_as_accurate, assert_same_bits_at_any_thread_count

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def tensors(counts: list[int], dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(count, generator=g).to(dtype) for count in counts]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("counts", [[1], [0, 5], [33, 100, 4097], [200_001]], ids=str)
def test_error_rule(isa: str, counts: list[int], dtype: torch.dtype) -> None:
    grads = tensors(counts, dtype)
    together = torch.cat(grads)
    plain = torch.linalg.vector_norm(together.float())
    assert_as_accurate(gradient_norm(grads), plain, torch.linalg.vector_norm(together.double()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_at_any_thread_count(isa: str, dtype: torch.dtype) -> None:
    grads = tensors([300_000, 70_001, 3], dtype)
    assert_same_bits_at_any_thread_count(lambda: [gradient_norm(grads)])


@given(counts=st.lists(st.integers(0, 50), max_size=5), seed=st.integers(0, 99), power=st.integers(-6, 6))
@settings(max_examples=30, deadline=None)
def test_scaling_by_a_power_of_two_scales_the_norm(counts: list[int], seed: int, power: int) -> None:
    grads = tensors(counts, torch.float32, seed)
    scaled = gradient_norm([grad * 2.0**power for grad in grads])
    assert torch.equal(scaled, gradient_norm(grads) * 2.0**power)


def test_dtypes_shapes_and_strides(isa: str) -> None:
    g = torch.Generator().manual_seed(1)
    grads = [torch.randn(6, 8, generator=g)[:, ::2], torch.randn(3, generator=g).bfloat16(), torch.ones(())]
    exact = sum(grad.double().square().sum() for grad in grads) ** 0.5
    torch.testing.assert_close(gradient_norm(grads).double(), exact, rtol=1e-6, atol=0.0)


def test_doubles_and_none() -> None:
    grads = tensors([3, 4], torch.float32)
    assert gradient_norm([grad.double() for grad in grads]).dtype == torch.float64
    assert gradient_norm([]).item() == 0.0


def test_nan_and_infinity_pass_through(isa: str) -> None:
    assert gradient_norm([torch.ones(9), torch.tensor([float("nan")])]).isnan()
    assert gradient_norm([torch.tensor([-float("inf"), 1.0])]).isinf()


def test_opcheck_and_compile() -> None:
    grads = tensors([5, 40], torch.float32)
    torch.library.opcheck(torch.ops.pyllm.gradient_norm.default, (grads,))
    compiled = torch.compile(
        lambda a, b: gradient_norm([a * 2, b]), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for count in (5, 9):
        a, b = tensors([count, 40], torch.float32)
        torch.testing.assert_close(compiled(a, b), gradient_norm([a * 2, b]))


def test_bad_input_is_named() -> None:
    with pytest.raises(TypeError, match=r"grads\[1\] must be float"):
        gradient_norm([torch.ones(2), torch.ones(2, dtype=torch.int32)])
    with pytest.raises(TypeError, match=r"grads\[0\] must be dense"):
        gradient_norm([torch.ones(2).to_sparse()])
