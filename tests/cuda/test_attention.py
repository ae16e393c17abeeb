"""The CUDA attention kernels, simulated or on a GPU: 16 bits, masks that are intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor

from pyllm.ops import attention
from tests.cuda import simulated
from tests.ops.attention_cases import LONG, VARIANTS, Case, ours, plain
from tests.ops.conftest import cuda_levels
from tests.ops.numerics import check_op, gradients

DTYPES = [torch.bfloat16, torch.float16]


def has_kernel(case: Case) -> bool:
    """What the CUDA kernel takes of what attention does."""
    dims = (case.head_dim, case.value_dim or case.head_dim)
    dense = case.mask_shape is not None or "attn_mask" in case.options or "dropout_p" in case.options
    return not dense and all(dim % 8 == 0 and dim <= 256 for dim in dims)


CASES = [case for case in [*VARIANTS, *LONG] if has_kernel(case)]
EVERYTHING = Case(
    "everything",
    heads=6,
    kv_len=150,
    sink=True,
    options={
        "window": 20,
        "sink_tokens": 2,
        "prefix_length": torch.tensor([5, 100], dtype=torch.int32),
        "softcap": 4.0,
        "alibi_slopes": torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        "kv_lengths": torch.tensor([150, 90]),
    },
)
HEAD_SIZES = [
    Case(f"heads_of_{dim}", batch=1, heads=2, q_len=70, kv_len=90, head_dim=dim, value_dim=value_dim)
    for dim, value_dim in [(64, None), (96, None), (128, None), (256, None), (40, 72), (192, 128)]
]


@pytest.fixture(params=cuda_levels(), autouse=True)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    with simulated.in_place_of_cpu_kernels(request.param):
        yield request.param


def cases() -> Iterator[Any]:
    """All cases in both dtypes; in float16, and where tensors are large, only EVERYTHING is not slow."""
    for case, dtype in product([*CASES, EVERYTHING], DTYPES):
        quick = case is EVERYTHING or (case in VARIANTS and dtype is torch.bfloat16)
        yield pytest.param(case, dtype, id=f"{case}-{dtype}", marks=[] if quick else pytest.mark.slow)


@pytest.mark.parametrize(("case", "dtype"), list(cases()))
def test_error_rule(case: Case, dtype: torch.dtype) -> None:
    check_op(ours(case), plain(case), case.inputs(dtype))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("case", HEAD_SIZES, ids=str)
def test_head_sizes(case: Case, causal: bool) -> None:
    case = replace(case, options={"is_causal": causal})
    check_op(ours(case), plain(case), case.inputs(torch.bfloat16))


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"window": 30, "sink_tokens": 2}], ids=str)
def test_packed_is_a_loop_over_sequences(options: dict[str, bool], narrow: bool) -> None:
    ends_q, ends_k = [0, 3, 3, 140, 171], [0, 70, 75, 212, 212]
    g = torch.Generator().manual_seed(3)
    shapes = ((171, 4, 32), (212, 2, 32), (212, 2, 32))
    q, k, v = inputs = [torch.randn(shape, generator=g).bfloat16().requires_grad_() for shape in shapes]
    cu = [torch.tensor(ends, dtype=torch.int32 if narrow else torch.int64) for ends in (ends_q, ends_k)]
    packed, lse = attention(q, k, v, cu_seqlens_q=cu[0], cu_seqlens_k=cu[1], return_lse=True, **options)
    weights = torch.randn(packed.shape, generator=g)
    grads = torch.autograd.grad((packed.float() * weights).sum(), inputs)
    for rows, keys in zip(pairwise(ends_q), pairwise(ends_k), strict=True):
        one = [x[slice(*part)].transpose(0, 1)[None] for x, part in ((q, rows), (k, keys), (v, keys))]
        out, its_lse = attention(*one, return_lse=True, **options)
        assert torch.equal(packed[slice(*rows)], out[0].transpose(0, 1))
        assert torch.equal(lse[:, slice(*rows)], its_lse[0])
        its_grads = torch.autograd.grad(
            (out[0].transpose(0, 1).float() * weights[slice(*rows)]).sum(), inputs
        )
        for whole, its, part in zip(grads, its_grads, (rows, keys, keys), strict=True):
            assert torch.equal(whole[slice(*part)], its[slice(*part)])


def test_rows_without_keys_give_zeros() -> None:
    q, k, v, *_ = Case("", q_len=40, kv_len=10).inputs(torch.bfloat16, grad=False)
    out, lse = attention(q, k, v, is_causal=True, return_lse=True)
    assert (out[:, :, :30] == 0).all()
    assert (lse[:, :, :30] == -torch.inf).all()
    assert torch.isfinite(lse[:, :, 30:]).all()


def test_strides_and_misaligned_tensors() -> None:
    case = Case("", head_dim=64)
    q, k, v, *_ = case.inputs(torch.bfloat16, grad=False)
    expected = attention(q, k, v, is_causal=True)
    moved = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    assert torch.equal(attention(*moved, is_causal=True), expected)
    shifted = [torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape) for x in (q, k, v)]
    assert torch.equal(attention(*shifted, is_causal=True), expected)


def test_values_that_nobody_checks_stay_inside_the_tensors(level: str) -> None:
    """On a GPU lengths and borders are not read before the launch."""
    op = torch.ops.pyllm_simulated.attention.default if level == "cuda-simulated" else None
    if op is None:
        pytest.skip("the same through the public op, which checks what lies on the CPU")
    q, k, v, *_ = Case("", batch=1).inputs(torch.bfloat16, grad=False)

    def call(**changes: Tensor) -> Tensor:
        names = ("attn_mask", "sink_logits", "alibi_slopes", "prefix_length", "kv_lengths", "cu_seqlens_q")
        tensors = [changes.get(name) for name in (*names, "cu_seqlens_k", "dropout_seed")]
        return op(q, k, v, *tensors, False, None, None, 0, None, 0.0)[0]

    assert torch.equal(call(kv_lengths=torch.tensor([10**9])), call())
    assert (call(kv_lengths=torch.tensor([-5])) == 0).all()
    wild = torch.tensor([-7, 10**9])
    assert torch.equal(call(cu_seqlens_q=wild, cu_seqlens_k=wild), call())


def test_nan_that_is_attended_to_reaches_the_output() -> None:
    q, k, v, *_ = Case("", batch=1, heads=2, kv_heads=2).inputs(torch.bfloat16, grad=False)
    clean = attention(q, k, v, is_causal=True)
    k[0, 0, 20] = torch.nan
    out = attention(q, k, v, is_causal=True)
    assert torch.equal(out[0, 0, :20], clean[0, 0, :20])
    assert out[0, 0, 20:].isnan().all()
    assert torch.equal(out[0, 1], clean[0, 1])


@pytest.mark.parametrize("seed", [1, 2])
def test_order_of_threads_does_not_matter(level: str, seed: int) -> None:
    if level == "cuda":
        pytest.skip("a GPU has an order of its own")
    inputs = EVERYTHING.inputs(torch.bfloat16)
    expected = gradients(ours(EVERYTHING), inputs)
    with simulated.scheduled(seed):
        for mine, theirs in zip(gradients(ours(EVERYTHING), inputs), expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
