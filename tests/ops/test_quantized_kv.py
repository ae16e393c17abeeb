"""A quantized KV cache: the codes are those of plain torch, and attention reads exactly what they stand for."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyllm.ops import PagedKVCache, attention, paged_attention, write_kv
from pyllm.ops.attention_reference import attention_reference
from pyllm.ops.paged_attention import PAGE_SIZES, _paged_attention_reference, _write_kv_reference
from pyllm.ops.quantized_kv import KV_QUANTIZATIONS
from tests.ops.numerics import assert_as_accurate, assert_same_bits_at_any_thread_count
from tests.ops.test_paged_attention import DTYPES, MASKS, normal

quantizations = pytest.mark.parametrize("quantization", KV_QUANTIZATIONS)


def empty(quantization: str, batch: int, kv_len: int, k: Tensor, v: Tensor, page_size: int = 32) -> Any:
    """A cache of noise with room for batch x kv_len tokens in shuffled pages, and its block table."""
    per_row = -(-kv_len // page_size)
    cache = PagedKVCache.empty(
        batch * per_row + 1,
        k.shape[1],
        k.shape[-1],
        value_dim=v.shape[-1],
        page_size=page_size,
        quantization=quantization,
    )
    noise = torch.Generator().manual_seed(5)
    cache.data.copy_(torch.randint(0, 256, cache.data.shape, generator=noise))
    order = torch.randperm(batch * per_row + 1, generator=torch.Generator().manual_seed(kv_len))
    return cache, order[: batch * per_row].view(batch, per_row)


def filled(quantization: str, k: Tensor, v: Tensor, lengths: list[int], page_size: int = 32) -> Any:
    batch, _, kv_len, _ = k.shape
    cache, table = empty(quantization, batch, kv_len, k, v, page_size)
    positions = torch.arange(kv_len).repeat(batch, 1)
    write_kv(k, v, cache, positions.masked_fill(positions >= torch.tensor(lengths)[:, None], -1), table)
    return cache, table


def dense(cache: PagedKVCache, table: Tensor, lengths: list[int], kv_len: int) -> list[Tensor]:
    """What the codes stand for, padded with zeros: keys and values (batch, kv_heads, kv_len, dim)."""
    rows = [cache.read(table[n], length) for n, length in enumerate(lengths)]
    padded = (
        [torch.nn.functional.pad(x, (0, 0, 0, kv_len - x.shape[1])) for x in side]
        for side in zip(*rows, strict=True)
    )
    return [torch.stack(side) for side in padded]


@quantizations
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("dims", [(64, 64), (13, 21), (1, 33), (80, 48)], ids=str)
def test_codes_are_those_of_plain_torch(
    quantization: str, dtype: torch.dtype, page_size: int, dims: tuple[int, int]
) -> None:
    k, v = (normal(i, 3, 75, dims[i], dtype=dtype).transpose(0, 1) for i in range(2))
    k[4], v[:, :, 0] = 0, 3e4
    k[5, 0, 0], v[6, 2, -1] = torch.nan, -torch.inf
    positions, ends = torch.arange(75).flip(0), torch.tensor([0, 75])
    positions[7] = -1
    cache, table = empty(quantization, 1, 75, k, v, page_size)
    wanted = PagedKVCache(cache.data.clone(), page_size, cache.head_dim, cache.value_dim, quantization)
    write_kv(k, v, cache, positions, table, cu_seqlens_q=ends)
    _write_kv_reference(k, v, wanted, positions, table, ends)
    for mine, theirs in zip(cache.read(table[0], 75), wanted.read(table[0], 75), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


@given(
    seed=st.integers(0, 999),
    dim=st.integers(1, 100),
    quantization=st.sampled_from(KV_QUANTIZATIONS),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 300.0, 1e20]),
    offset=st.sampled_from([0.0, 0.3, -2.0]),
)
@settings(max_examples=40, deadline=None)
def test_a_code_is_at_most_half_a_step_away(
    seed: int, dim: int, quantization: str, scale: float, offset: float
) -> None:
    x = (normal(seed, 1, 2, 20, dim) + offset) * scale
    cache, table = filled(quantization, x, x, [20])
    for read in cache.read(table[0], 20):
        run = dim if quantization == "int8" else 32
        for exact, ours in zip(x[0].double().split(run, -1), read.double().split(run, -1), strict=True):
            low, high = exact.amin(-1, keepdim=True), exact.amax(-1, keepdim=True)
            largest = torch.maximum(-low, high)
            # Rounding the step up and the smallest down to bfloat16 takes at most 2^-7 of each.
            widest = (high - low) * (1 + 2**-7) + largest * 2**-7 * (1 + 2**-7)
            half = largest / 254 if quantization == "int8" else widest / 30
            assert ((ours - exact).abs() <= half * (1 + 1e-5)).all()


@quantizations
@pytest.mark.parametrize("options", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("queries", [1, 37])
def test_reads_what_the_codes_stand_for(
    isa: str, quantization: str, options: dict[str, Any], queries: int
) -> None:
    kv_len = 40 if isa == "scalar" else 530
    lengths = [kv_len, 0, kv_len // 2 + 3]
    q, k, v = normal(0, 3, 6, queries, 40), normal(1, 3, 2, kv_len, 40), normal(2, 3, 2, kv_len, 24)
    for page_size in (16, 256):
        cache, table = filled(quantization, k, v, lengths, page_size)
        kv = dense(cache, table, lengths, kv_len)
        arguments = {"is_causal": True, **options, "return_lse": True}
        wanted = attention(q, *kv, kv_lengths=torch.tensor(lengths), **arguments)
        out, lse = paged_attention(q, cache, table, torch.tensor(lengths), **arguments)
        assert torch.equal(out, wanted[0])
        assert torch.equal(lse, wanted[1])


@quantizations
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_error_rule(isa: str, quantization: str, dtype: torch.dtype) -> None:
    kv_len = 50 if isa == "scalar" else 700
    q = normal(0, 2, 6, 3, 64, dtype=dtype)
    k, v = (normal(i, 2, 2, kv_len, 64, dtype=dtype) for i in (1, 2))
    lengths = [kv_len, 20]
    cache, table = filled(quantization, k, v, lengths)
    out, lse = paged_attention(q, cache, table, torch.tensor(lengths), return_lse=True)
    kv = dense(cache, table, lengths, kv_len)
    masks = (None, None, None, None, torch.tensor(lengths), None, None, None)
    numbers = (True, None, None, 0, None)
    exact = attention_reference(*(x.double() for x in (q, *kv)), *masks, *numbers)
    plain = attention_reference(*(x.to(dtype) for x in (q, *kv)), *masks, *numbers)
    assert_as_accurate(out, plain[0], exact[0])
    assert_as_accurate(lse, plain[1], exact[1])


@quantizations
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_prefill_chunks_and_decoding_give_the_same_bits(
    isa: str, quantization: str, dtype: torch.dtype
) -> None:
    length = 30 if isa == "scalar" else 540
    q = normal(0, 1, 6, length, 32, dtype=dtype)
    k, v = (normal(i, 1, 2, length, 32, dtype=dtype) for i in (1, 2))
    cache, table = filled(quantization, k, v, [length])
    whole, lse = paged_attention(q, cache, table, torch.tensor([length]), return_lse=True)
    cache, table = empty(quantization, 1, length, k, v)
    for begin, end in pairwise([0, 1, 2, length // 2 - 3, length - 1, length]):
        new = (k[:, :, begin:end], v[:, :, begin:end])
        write_kv(*new, cache, torch.arange(begin, end)[None], table)
        out, part = paged_attention(q[:, :, begin:end], cache, table, torch.tensor([end]), return_lse=True)
        assert torch.equal(out, whole[:, :, begin:end])
        assert torch.equal(part, lse[:, :, begin:end])


@quantizations
def test_same_bits_at_any_thread_count(isa: str, quantization: str) -> None:
    if isa == "scalar":
        pytest.skip("the reference runs on one thread")
    k, v = (normal(i, 2, 3, 900, 64, dtype=torch.bfloat16) for i in (1, 2))

    def run() -> list[Tensor]:
        cache, table = filled(quantization, k, v, [900, 333])
        outs = []
        for queries in (1, 40):
            q = normal(0, 2, 9, queries, 64, dtype=torch.bfloat16)
            outs += paged_attention(q, cache, table, torch.tensor([900, 333]), return_lse=True)
        return outs

    assert_same_bits_at_any_thread_count(run)


@quantizations
def test_what_is_not_finite_stays_with_its_key(isa: str, quantization: str) -> None:
    q = normal(0, 1, 4, 1, 16)
    for where, bad in ((0, torch.nan), (1, torch.inf)):
        kv = [normal(i, 1, 2, 30, 16) for i in (1, 2)]
        kv[where][0, 0, 20, 3] = bad
        cache, table = filled(quantization, *kv, [30])
        out = paged_attention(q, cache, table, torch.tensor([30]))
        assert out[0, :2].isnan().any(-1).all()
        assert torch.isfinite(out[0, 2:]).all()
        assert torch.isfinite(paged_attention(q, cache, table, torch.tensor([30]), window=5)).all()


@quantizations
def test_the_reference_of_the_op_agrees(quantization: str) -> None:
    q, k, v = normal(0, 1, 4, 2, 24), normal(1, 1, 2, 33, 24), normal(2, 1, 2, 33, 40)
    cache, table = filled(quantization, k, v, [33])
    out = paged_attention(q, cache, table, torch.tensor([33]))
    arguments = (None, None, None, None, True, None, None, 0, None)
    wanted, _ = _paged_attention_reference(q, cache, table, torch.tensor([33]), *arguments)
    torch.testing.assert_close(out, wanted)


@quantizations
def test_memory(quantization: str) -> None:
    def size(**options: Any) -> int:
        return PagedKVCache.empty(10, 3, 128, page_size=64, **options).data.nbytes

    share = size(quantization=quantization) / size(dtype=torch.float32)
    assert share == {"int8": (1 + 4 / 128) / 4, "int4": 5 / 32}[quantization]


def test_operators_pass_opcheck() -> None:
    k = normal(1, 2, 2, 3, 8)
    cache, table = empty("int4", 2, 20, k, k, 16)
    arguments = (k, k, cache.data, torch.arange(3).repeat(2), table, None, 16, "int4")
    torch.library.opcheck(torch.ops.pyllm.write_kv_.default, arguments)
    options = (None, None, None, None, 16, 8, True, None, 5, 1, 2.0, "int4")
    lengths = torch.tensor([3, 20])
    q = normal(2, 2, 4, 3, 8)
    torch.library.opcheck(torch.ops.pyllm.paged_attention.default, (q, cache.data, table, lengths, *options))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"quantization must be None or one of .*got 'int2'"):
        PagedKVCache.zeros(2, 2, 8, quantization="int2")
    with pytest.raises(TypeError, match="must be uint8"):
        PagedKVCache(torch.zeros(2, 2, 100), 16, 8, 8, "int8")
    with pytest.raises(ValueError, match="data must be"):
        PagedKVCache(torch.zeros(2, 2, 100, dtype=torch.uint8), 16, 8, 8, "int8")
    cache = PagedKVCache.zeros(2, 2, 8, page_size=16, quantization="int8")
    table = torch.tensor([[0, 1]])
    with pytest.raises(TypeError, match="q must be"):
        paged_attention(torch.zeros(1, 2, 1, 8, dtype=torch.int64), cache, table, torch.tensor([1]))
