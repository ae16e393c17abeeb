"""The promises about bits: they depend on neither threads, nor neighbours, nor how a sequence is cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyllm.ops import attention
from tests.ops.attention_cases import LONG, VARIANTS, Case
from tests.ops.numerics import assert_same_bits_at_any_thread_count

DTYPES = [torch.float32, torch.bfloat16]
EVERYTHING = next(case for case in VARIANTS if case.name == "everything")


def tensors(case: Case, dtype: torch.dtype) -> list[Tensor]:
    return [x for x in case.inputs(dtype, grad=False) if x is not None]


@pytest.mark.parametrize("case", [EVERYTHING, *LONG], ids=str)
def test_same_bits_at_any_thread_count(isa: str, case: Case) -> None:
    if isa == "scalar" and case is not EVERYTHING:
        pytest.skip("the reference runs on one thread")
    q, k, v, mask, sink = case.inputs(torch.bfloat16)
    wanted = [x for x in (q, k, v, mask, sink) if x is not None]

    def run() -> list[Tensor]:
        out, lse = attention(q, k, v, attn_mask=mask, sink_logits=sink, return_lse=True, **case.options)
        upstream = [torch.ones_like(out), torch.ones_like(lse).masked_fill(lse == -torch.inf, 0.0)]
        return [out.detach(), lse.detach(), *torch.autograd.grad([out, lse], wanted, upstream)]

    assert_same_bits_at_any_thread_count(run)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"window": 70, "sink_tokens": 5}, {"softcap": 3.0}], ids=["causal", "window", "softcap"]
)
def test_chunks_and_single_steps_equal_the_whole(
    isa: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    length = 40 if isa == "scalar" else 560
    case = Case("", batch=1, heads=6, kv_heads=2, q_len=length, kv_len=length, head_dim=32)
    q, k, v = tensors(case, dtype)
    whole, lse = attention(q, k, v, is_causal=True, return_lse=True, **options)
    cuts = [0, 1, 2, length // 8, length // 2 - 3, length - 1, length]
    for begin, end in pairwise(cuts):
        part = attention(
            q[:, :, begin:end], k[:, :, :end], v[:, :, :end], is_causal=True, return_lse=True, **options
        )
        assert torch.equal(part[0], whole[:, :, begin:end])
        assert torch.equal(part[1], lse[:, :, begin:end])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_of_q_does_not_depend_on_chunks(isa: str, dtype: torch.dtype) -> None:
    if isa == "scalar":
        pytest.skip("rows of the reference are independent by construction")
    case = Case("", batch=1, heads=4, kv_heads=2, q_len=300, kv_len=300, head_dim=24)
    q, k, v, *_ = case.inputs(dtype)

    def grad_q(begin: int, end: int) -> Tensor:
        out = attention(q[:, :, begin:end], k[:, :, :end], v[:, :, :end], is_causal=True)
        return torch.autograd.grad(out, q, torch.ones_like(out))[0][:, :, begin:end]

    whole = grad_q(0, 300)
    for begin, end in ((0, 7), (7, 260), (260, 300)):
        assert torch.equal(grad_q(begin, end), whole[:, :, begin:end])


def test_schedules_give_the_same_bits(isa: str) -> None:
    if isa == "scalar":
        pytest.skip("the reference has one schedule")
    # Eight rows of two heads are walked head by head, one row alone tile by tile or block by block.
    for q_len in (200, 3):
        case = Case("", batch=8, heads=4, kv_heads=2, q_len=q_len, kv_len=520)
        q, k, v, *_ = case.inputs(torch.bfloat16)

        def run(q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
            out = attention(q, k, v, is_causal=True)
            return [out.detach(), *torch.autograd.grad(out, (q, k, v), torch.ones_like(out))]

        together = run(q, k, v)
        alone = run(*(t[3:4].detach().requires_grad_() for t in (q, k, v)))
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a[3:4], b)


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    pad=st.integers(0, 300),
    queries=st.integers(1, 4),
    dtype=st.sampled_from(DTYPES),
)
@settings(max_examples=15, deadline=None)
def test_neighbours_and_padding_do_not_matter(
    lengths: list[int], pad: int, queries: int, dtype: torch.dtype
) -> None:
    case = Case(
        "", batch=len(lengths), heads=3, kv_heads=1, q_len=queries, kv_len=max(lengths) + pad, head_dim=16
    )
    q, k, v = tensors(case, dtype)
    padded = attention(q, k, v, is_causal=True, kv_lengths=torch.tensor(lengths))
    flat = [torch.cat([t[n, :, :length].transpose(0, 1) for n, length in enumerate(lengths)]) for t in (k, v)]
    packed = attention(
        q.transpose(1, 2).flatten(0, 1),
        *flat,
        is_causal=True,
        cu_seqlens_q=torch.arange(len(lengths) + 1) * queries,
        cu_seqlens_k=torch.tensor([0, *lengths]).cumsum(0),
    )
    for n, length in enumerate(lengths):
        row = slice(n, n + 1)
        alone = attention(q[row], k[row, :, :length], v[row, :, :length], is_causal=True)
        assert torch.equal(padded[row], alone)
        assert torch.equal(packed.unflatten(0, (-1, queries))[row], alone.transpose(1, 2))


def test_non_finite_keys_behind_the_mask_do_not_change_bits(isa: str) -> None:
    case = Case("", batch=1, heads=4, kv_heads=2, q_len=50, kv_len=50)
    q, k, v, *_ = case.inputs(torch.float32)

    def run() -> list[Tensor]:
        out = attention(q, k, v, is_causal=True, kv_lengths=torch.tensor([45]))
        return [out.detach(), *torch.autograd.grad(out, (q, k, v), torch.ones_like(out))]

    clean = run()
    with torch.no_grad():
        k[:, :, 45:], v[:, :, 45:] = torch.nan, torch.inf
    for a, b in zip(clean, run(), strict=True):
        assert torch.equal(a, b)
