"""Gradients where the backward pass takes its shortcuts: rows, keys and tiles that masks hide, and cut work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pyllm.ops import attention
from tests.ops.numerics import assert_same_bits_at_any_thread_count


def qkv(*, batch: int = 1, heads: int = 2, kv_heads: int = 1, length: int, dim: int = 16) -> list[Tensor]:
    g = torch.Generator().manual_seed(length)
    shapes = [(batch, heads, length, dim), *[(batch, kv_heads, length, dim)] * 2]
    return [torch.randn(shape, generator=g).requires_grad_() for shape in shapes]


def gradients(inputs: list[Tensor], **options: Any) -> list[Tensor]:
    out = attention(*inputs, **options)
    upstream = torch.linspace(-1, 1, out.numel()).view(out.shape)
    return list(torch.autograd.grad(out, inputs, upstream))


def assert_near(mine: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def skip_reference(isa: str) -> None:
    if isa == "scalar":
        pytest.skip("the reference has no tiles")


@pytest.mark.parametrize("dim", [24, 64, 80], ids=str)
def test_intervals_over_many_tiles_equal_their_boolean_mask(isa: str, dim: int) -> None:
    skip_reference(isa)
    inputs = qkv(length=700, dim=dim)
    i, j = torch.arange(700)[:, None], torch.arange(700)
    mask = (j < 2) | ((j <= i) & (j > i - 33))
    by_interval = gradients(inputs, window=33, prefix_length=2)
    assert_near(by_interval, gradients(inputs, attn_mask=mask))


def test_hidden_tiles_of_a_boolean_mask_give_nothing(isa: str) -> None:
    skip_reference(isa)
    inputs = qkv(length=600)
    documents = torch.arange(600) // 150
    mask = documents[:, None] == documents
    ends = torch.arange(0, 601, 150)
    packed = [t[0].transpose(0, 1).detach().requires_grad_() for t in inputs]
    out = attention(*packed, cu_seqlens_q=ends, cu_seqlens_k=ends)
    upstream = torch.linspace(-1, 1, out.numel()).view(1, 2, 600, 16)[0].transpose(0, 1)
    expected = torch.autograd.grad(out, packed, upstream)
    whole = gradients(inputs, attn_mask=mask)
    assert_near(whole, [t.transpose(0, 1)[None] for t in expected])


def test_true_is_any_byte_but_zero(isa: str) -> None:
    inputs = qkv(length=20)
    mask = torch.rand(20, 20, generator=torch.Generator().manual_seed(1)) < 0.5
    odd = (mask.to(torch.uint8) * 4).view(torch.bool)
    for a, b in zip(gradients(inputs, attn_mask=mask), gradients(inputs, attn_mask=odd), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("lengths", [[900, 40, 40, 300], [64] * 12], ids=["uneven", "even"])
def test_sequences_cut_into_parts_or_not_give_the_same_bits(isa: str, lengths: list[int]) -> None:
    skip_reference(isa)
    ends = torch.tensor([0, *lengths]).cumsum(0)
    g = torch.Generator().manual_seed(7)
    packed = [torch.randn(sum(lengths), heads, 16, generator=g).requires_grad_() for heads in (4, 2, 2)]

    def run() -> list[Tensor]:
        return gradients(packed, is_causal=True, cu_seqlens_q=ends, cu_seqlens_k=ends)

    assert_same_bits_at_any_thread_count(run)
    together = run()[0]
    for first, last in zip(ends.tolist(), ends.tolist()[1:], strict=False):
        one = [t[first:last].detach().requires_grad_() for t in packed]
        borders = torch.tensor([0, last - first])
        out = attention(*one, is_causal=True, cu_seqlens_q=borders, cu_seqlens_k=borders)
        upstream = torch.linspace(-1, 1, packed[0].numel()).view(packed[0].shape)[first:last]
        assert torch.equal(torch.autograd.grad(out, one[0], upstream)[0], together[first:last])


@pytest.mark.parametrize("where", [0, 1, 2], ids=["q", "k", "v"])
def test_nan_stays_with_the_rows_and_keys_that_see_it(isa: str, where: int) -> None:
    inputs = qkv(length=40, heads=1)
    clean = gradients(inputs, is_causal=True)
    with torch.no_grad():
        inputs[where][0, 0, 20] = torch.nan
    grad_q, grad_k, grad_v = (t[0, 0] for t in gradients(inputs, is_causal=True))
    if where == 0:  # row 20 spoils the keys it sees
        assert torch.equal(grad_q[:20], clean[0][0, 0, :20])
        assert torch.equal(grad_k[21:], clean[1][0, 0, 21:])
        assert grad_k[:21].isnan().any()
    else:  # key 20 spoils the rows that see it
        assert torch.equal(grad_q[:20], clean[0][0, 0, :20])
        assert grad_q[20:].isnan().any(-1).all()
    assert grad_v.shape == clean[2][0, 0].shape
