"""A paged cache holds what was written, and attending to it gives the bits of attending to ordinary tensors."""

from __future__ import annotations

import mmap
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyllm.ops import PagedKVCache, attention, paged_attention, write_kv
from pyllm.ops.paged_attention import PAGE_SIZES, _paged_attention_reference, _write_kv_reference
from tests.ops.numerics import assert_as_accurate, assert_same_bits_at_any_thread_count

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MASKS: dict[str, dict[str, Any]] = {
    "causal": {},
    "full": {"is_causal": False},
    "window": {"window": 70, "sink_tokens": 5},
    "prefix": {"prefix_length": 9, "window": 20},
    "softcap": {"softcap": 3.0, "scale": 0.2},
    "alibi": {"alibi_slopes": torch.tensor([0.5, 0.25, 0.1, 0.03, 0.3, 0.2])},
    "sinks": {"sink_logits": torch.tensor([0.5, -0.25, 0.1, -torch.inf, 3.0, 0.2])},
}


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def filled(
    k: Tensor, v: Tensor, lengths: list[int], page_size: int, seed: int = 0, spare: int = 2
) -> tuple[PagedKVCache, Tensor]:
    """A cache with the first lengths[n] tokens of row n, in shuffled pages whose other tokens are NaN or infinite."""
    batch, kv_heads, kv_len, head_dim = k.shape
    per_row = -(-max(kv_len, 1) // page_size)
    cache = PagedKVCache.zeros(
        batch * per_row + spare,
        kv_heads,
        head_dim,
        value_dim=v.shape[-1],
        page_size=page_size,
        dtype=k.dtype,
    )
    cache.data[:] = torch.tensor([torch.nan, torch.inf, -torch.inf])[
        torch.arange(cache.data.numel()) % 3
    ].view(cache.data.shape)
    order = torch.randperm(batch * per_row + spare, generator=torch.Generator().manual_seed(seed))
    table = order[: batch * per_row].view(batch, per_row)
    positions = torch.arange(kv_len).repeat(batch, 1)
    write_kv(k, v, cache, positions.masked_fill(positions >= torch.tensor(lengths)[:, None], -1), table)
    return cache, table


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("dims", [(64, 64), (13, 21), (1, 33)], ids=str)
def test_read_undoes_write(dtype: torch.dtype, page_size: int, dims: tuple[int, int]) -> None:
    k, v = (normal(i, 2, 3, 75, dims[i], dtype=dtype) for i in range(2))
    cache, table = filled(k, v, [75, 40], page_size)
    for row, length in enumerate((75, 40)):
        keys, values = cache.read(table[row], length)
        assert torch.equal(keys, k[row, :, :length])
        assert torch.equal(values, v[row, :, :length])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_reference_writes_the_same_page(dtype: torch.dtype) -> None:
    k, v = normal(0, 9, 2, 24, dtype=dtype), normal(1, 9, 2, 40, dtype=dtype)
    positions, ends = torch.tensor([17, 3, -1, 30, 0, 16, 31, 2, -5]), torch.tensor([0, 4, 4, 9])
    table = torch.tensor([[3, 1], [0, 0], [2, 4]])
    caches = [PagedKVCache.zeros(5, 2, 24, value_dim=40, page_size=16, dtype=dtype) for _ in range(2)]
    write_kv(k, v, caches[0], positions, table, cu_seqlens_q=ends)
    _write_kv_reference(k, v, caches[1], positions, table, ends)
    assert torch.equal(caches[0].data, caches[1].data)
    assert not caches[0].data[0].any()


@pytest.mark.parametrize("options", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_paged_equals_contiguous(isa: str, dtype: torch.dtype, options: dict[str, Any]) -> None:
    kv_len = 40 if isa == "scalar" else 530
    lengths, queries = [kv_len, 0, kv_len // 2 + 3], 37 if isa == "scalar" else 5
    q = normal(0, 3, 6, queries, 40, dtype=dtype)
    k, v = normal(1, 3, 2, kv_len, 40, dtype=dtype), normal(2, 3, 2, kv_len, 24, dtype=dtype)
    wanted = attention(
        q, k, v, kv_lengths=torch.tensor(lengths), return_lse=True, **{"is_causal": True, **options}
    )
    for page_size in (16, 64, 256):
        cache, table = filled(k, v, lengths, page_size, seed=page_size)
        out, lse = paged_attention(q, cache, table, torch.tensor(lengths), return_lse=True, **options)
        assert torch.equal(out, wanted[0])
        assert torch.equal(lse, wanted[1])


@pytest.mark.parametrize("options", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_training_prefill_chunks_and_decoding_give_the_same_bits(
    isa: str, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    if options.get("is_causal") is False:
        pytest.skip("without a causal mask earlier tokens see later ones")
    length = 30 if isa == "scalar" else 540
    q = normal(0, 1, 6, length, 32, dtype=dtype)
    k, v = (normal(i, 1, 2, length, 32, dtype=dtype) for i in (1, 2))
    whole, lse = attention(q, k, v, is_causal=True, return_lse=True, **options)
    cache, table = filled(k, v, [0], 32)
    first = 1 + options.get("prefix_length", 0)  # which the prefix's own tokens must see whole
    cuts = [0, first, first + 1, length // 2 - 3, length - 1, length]
    for begin, end in pairwise(cuts):
        new = (k[:, :, begin:end], v[:, :, begin:end])
        write_kv(*new, cache, torch.arange(begin, end)[None], table)
        out, part = paged_attention(
            q[:, :, begin:end], cache, table, torch.tensor([end]), return_lse=True, **options
        )
        assert torch.equal(out, whole[:, :, begin:end])
        assert torch.equal(part, lse[:, :, begin:end])


@given(
    lengths=st.lists(st.tuples(st.integers(1, 300), st.integers(0, 40)), min_size=1, max_size=4),
    page_size=st.sampled_from(PAGE_SIZES),
    dtype=st.sampled_from(DTYPES),
    narrow=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=20, deadline=None)
def test_ragged_chunks_are_independent(
    lengths: list[tuple[int, int]], page_size: int, dtype: torch.dtype, narrow: bool, seed: int
) -> None:
    index = torch.int32 if narrow else torch.int64
    keys, chunks = zip(*((a, min(a, b)) for a, b in lengths), strict=True)
    k, v = (normal(seed + i, len(lengths), 2, max(keys), 16, dtype=dtype) for i in (1, 2))
    q = normal(seed, sum(chunks), 4, 16, dtype=dtype)
    ends = torch.tensor([0, *chunks]).cumsum(0).to(index)
    before = [a - b for a, b in zip(keys, chunks, strict=True)]
    cache, table = filled(k, v, before, page_size, seed)
    table = table.to(index)
    new = [
        torch.cat(
            [x[n, :, a - b : a].transpose(0, 1) for n, (a, b) in enumerate(zip(keys, chunks, strict=True))]
        )
        for x in (k, v)
    ]
    positions = torch.cat([torch.arange(a - b, a) for a, b in zip(keys, chunks, strict=True)])
    write_kv(*new, cache, positions, table, cu_seqlens_q=ends)
    out, lse = paged_attention(
        q, cache, table, torch.tensor(keys, dtype=index), cu_seqlens_q=ends, return_lse=True
    )
    for n, length in enumerate(keys):
        rows = slice(*ends[n : n + 2].tolist())
        alone = attention(
            q[rows].transpose(0, 1)[None],
            k[n : n + 1, :, :length],
            v[n : n + 1, :, :length],
            is_causal=True,
            return_lse=True,
        )
        assert torch.equal(out[rows], alone[0][0].transpose(0, 1))
        assert torch.equal(lse[:, rows], alone[1][0])


def test_same_bits_at_any_thread_count(isa: str) -> None:
    if isa == "scalar":
        pytest.skip("the reference runs on one thread")
    k, v = (normal(i, 2, 3, 900, 64, dtype=torch.bfloat16) for i in (1, 2))

    def run() -> list[Tensor]:
        cache, table = filled(k, v, [900, 333], 32)
        outs = []
        for queries in (1, 40):
            q = normal(0, 2, 9, queries, 64, dtype=torch.bfloat16)
            outs += paged_attention(q, cache, table, torch.tensor([900, 333]), return_lse=True)
        return outs

    assert_same_bits_at_any_thread_count(run)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_rule(isa: str, dtype: torch.dtype) -> None:
    kv_len = 50 if isa == "scalar" else 700
    q = normal(0, 2, 6, 3, 64, dtype=dtype)
    k, v = (normal(i, 2, 2, kv_len, 64, dtype=dtype) for i in (1, 2))
    lengths = torch.tensor([kv_len, 20])
    cache, table = filled(k, v, lengths.tolist(), 64)
    wide = torch.float64 if dtype == torch.float32 else torch.float32
    exact_cache, exact_table = filled(k.to(wide), v.to(wide), lengths.tolist(), 64)
    arguments = (None, None, None, None, True, None, None, 0, None)
    mine = paged_attention(q, cache, table, lengths, return_lse=True)
    plain = _paged_attention_reference(q, cache, table, lengths, *arguments)
    exact = _paged_attention_reference(q.to(wide), exact_cache, exact_table, lengths, *arguments)
    for a, b, c in zip(mine, plain, exact, strict=True):
        assert_as_accurate(a, b, c)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_in_an_attended_key_or_value_reaches_the_output(isa: str, dtype: torch.dtype) -> None:
    q = normal(0, 1, 4, 1, 16, dtype=dtype)
    for where in range(2):
        kv = [normal(i, 1, 2, 30, 16, dtype=dtype) for i in (1, 2)]
        kv[where][0, 0, 20, 3] = torch.nan
        cache, table = filled(*kv, [30], 32)
        out = paged_attention(q, cache, table, torch.tensor([30]))
        assert out[0, :2].isnan().any(-1).all()
        assert torch.isfinite(out[0, 2:]).all()
        hidden = paged_attention(q, cache, table, torch.tensor([30]), window=5)
        assert torch.isfinite(hidden).all()


@pytest.mark.parametrize("shape", [(0, 4, 1), (2, 0, 1), (2, 4, 0)], ids=["batch", "heads", "q"])
def test_zero_sizes(isa: str, shape: tuple[int, int, int]) -> None:
    batch, heads, q_len = shape
    cache = PagedKVCache.zeros(3, heads // 2, 8, page_size=16)
    table, lengths = torch.zeros(batch, 1, dtype=torch.int64), torch.full((batch,), 5)
    k = torch.zeros(batch, heads // 2, q_len, 8, dtype=torch.bfloat16)
    write_kv(k, k, cache, torch.zeros(batch, q_len, dtype=torch.int64), table)
    q = torch.zeros(batch, heads, q_len, 8, dtype=torch.bfloat16)
    assert paged_attention(q, cache, table, lengths).shape == q.shape


def test_pages_past_32_bits(isa: str) -> None:
    near = PagedKVCache.zeros(2, 1, 8, page_size=16)
    stride = 2**31 + 64
    memory = torch.frombuffer(mmap.mmap(-1, 2 * (stride + 1024)), dtype=torch.bfloat16)
    far = PagedKVCache(memory.as_strided(near.data.shape, (stride, 1, 1)), 16, 8, 8)
    k, q = normal(0, 1, 1, 20, 8, dtype=torch.bfloat16), normal(1, 1, 2, 3, 8, dtype=torch.bfloat16)
    table, lengths = torch.tensor([[1, 0]]), torch.tensor([20])
    for cache in (near, far):
        write_kv(k, k, cache, torch.arange(20)[None], table)
    assert torch.equal(near.data, far.data)
    assert torch.equal(paged_attention(q, near, table, lengths), paged_attention(q, far, table, lengths))


def small() -> dict[str, Any]:
    return {
        "cache": PagedKVCache.zeros(6, 2, 8, page_size=16, dtype=torch.float32),
        "block_table": torch.tensor([[0, 1], [4, 3]]),
    }


def test_operators_pass_opcheck() -> None:
    s, k = small(), torch.randn(2, 2, 3, 8)
    data, table = s["cache"].data, s["block_table"]
    positions = torch.arange(3).repeat(2)
    torch.library.opcheck(torch.ops.pyllm.write_kv_.default, (k, k, data, positions, table, None, 16))
    lengths = torch.tensor([3, 20])
    for sinks in (None, torch.randn(4)):
        options = (sinks, None, None, None, 16, 8, True, None, 5, 1, 2.0)
        torch.library.opcheck(
            torch.ops.pyllm.paged_attention.default, (torch.randn(2, 4, 3, 8), data, table, lengths, *options)
        )


def test_compiles() -> None:
    table = small()["block_table"]

    def step(q: Tensor, k: Tensor, data: Tensor, positions: Tensor, lengths: Tensor) -> Tensor:
        cache = PagedKVCache(data, 16, 8, 8)
        write_kv(k * 2, k, cache, positions, table)
        return paged_attention(q, cache, table, lengths, window=7).sin()

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (2, 3):
        data = small()["cache"].data
        mine, theirs = data.clone(), data.clone()
        with torch.inference_mode(tokens == 3):
            q, k = torch.randn(2, 4, tokens, 8), torch.randn(2, 2, tokens, 8)
            arguments = (torch.arange(tokens).repeat(2, 1), torch.tensor([tokens, tokens]))
            assert torch.equal(compiled(q, k, mine, *arguments), step(q, k, theirs, *arguments))
        assert torch.equal(mine, theirs)
        assert mine.any()


def test_autocast_takes_the_dtype_of_the_cache() -> None:
    s, k, q = small(), torch.randn(2, 2, 3, 8), torch.randn(2, 4, 3, 8)
    cache = PagedKVCache.zeros(6, 2, 8, page_size=16)
    with torch.autocast("cpu", torch.float16):
        write_kv(k, k, cache, torch.arange(3).repeat(2, 1), s["block_table"])
        out = paged_attention(q, cache, s["block_table"], torch.tensor([3, 3]))
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, attention(*(x.bfloat16() for x in (q, k, k)), is_causal=True))


def bad_writes() -> list[tuple[str, type[Exception], dict[str, Any]]]:
    k = torch.randn(2, 2, 3, 8)
    flat = {"k": k[0].transpose(0, 1), "v": k[0].transpose(0, 1)}
    return [
        ("k must be", ValueError, {"k": k[0]}),
        ("k must have the dtype", TypeError, {"k": k.half()}),
        ("v's last dimension", ValueError, {"v": k[..., :7]}),
        ("v must have k's shape", ValueError, {"v": k[:, :, :2]}),
        ("heads", ValueError, {"k": k[:, :1], "v": k[:, :1]}),
        ("k requires a gradient", ValueError, {"k": k.clone().requires_grad_()}),
        ("positions", TypeError, {"positions": torch.zeros(2, 3)}),
        ("positions", ValueError, {"positions": torch.zeros(2, 2, dtype=torch.int64)}),
        ("positions must be below", ValueError, {"positions": torch.tensor([[0, 1, 2], [0, 1, 32]])}),
        ("block_table", TypeError, {"block_table": torch.zeros(2, 2)}),
        ("block_table", ValueError, {"block_table": torch.zeros(1, 2, dtype=torch.int64)}),
        ("block_table must hold pages", ValueError, {"block_table": torch.tensor([[0, 1], [6, 1]])}),
        ("block_table must hold pages", ValueError, {"block_table": torch.tensor([[0, 1], [-1, 1]])}),
        (
            "cu_seqlens_q must rise",
            ValueError,
            {**flat, "cu_seqlens_q": torch.tensor([0, 1, 2]), "positions": torch.arange(3)},
        ),
    ]


@pytest.mark.parametrize(("message", "error", "changes"), bad_writes())
def test_bad_writes_are_named_and_write_nothing(
    message: str, error: type[Exception], changes: dict[str, Any]
) -> None:
    k = torch.randn(2, 2, 3, 8)
    arguments = {"k": k, "v": k, "positions": torch.arange(3).repeat(2, 1), **small(), **changes}
    with pytest.raises(error, match=message):
        write_kv(**arguments)
    assert not arguments["cache"].data.any()


def bad_calls() -> list[tuple[str, type[Exception], dict[str, Any]]]:
    q = torch.randn(2, 4, 3, 8)
    return [
        ("q must be", ValueError, {"q": q[0]}),
        ("q must have the dtype", TypeError, {"q": q.half()}),
        ("q's last dimension", ValueError, {"q": q[..., :7]}),
        ("q's heads must be a multiple", ValueError, {"q": q[:, :3]}),
        ("q requires a gradient", ValueError, {"q": q.clone().requires_grad_()}),
        ("lengths", TypeError, {"lengths": torch.tensor([1.0, 2.0])}),
        ("lengths", ValueError, {"lengths": torch.tensor([1])}),
        ("lengths must lie in", ValueError, {"lengths": torch.tensor([3, 33])}),
        ("lengths must lie in", ValueError, {"lengths": torch.tensor([3, -1])}),
        ("block_table", ValueError, {"block_table": torch.zeros(2, dtype=torch.int64)}),
        ("block_table must hold pages", ValueError, {"block_table": torch.tensor([[0, 1], [5, 6]])}),
        ("window", ValueError, {"window": 0}),
        ("softcap", ValueError, {"softcap": -1.0}),
        ("sink_tokens", ValueError, {"sink_tokens": -1}),
        ("prefix_length", ValueError, {"prefix_length": -1}),
        ("prefix_length", ValueError, {"prefix_length": torch.tensor([1, -1])}),
        ("sink_logits", ValueError, {"sink_logits": torch.zeros(3)}),
        ("alibi_slopes", TypeError, {"alibi_slopes": torch.zeros(4, dtype=torch.int64)}),
        ("cu_seqlens_q", ValueError, {"q": q[0].transpose(0, 1), "cu_seqlens_q": torch.tensor([0, 1, 2])}),
    ]


@pytest.mark.parametrize(("message", "error", "changes"), bad_calls())
def test_bad_calls_are_named(message: str, error: type[Exception], changes: dict[str, Any]) -> None:
    arguments = {"q": torch.randn(2, 4, 3, 8), "lengths": torch.tensor([3, 20]), **small(), **changes}
    with pytest.raises(error, match=message):
        paged_attention(**arguments)


@pytest.mark.parametrize("page_size", [0, 8, 48, 512])
def test_page_size_divides_the_block(page_size: int) -> None:
    with pytest.raises(ValueError, match="page_size must divide"):
        PagedKVCache.zeros(2, 2, 8, page_size=page_size)


def test_a_cache_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="data must be"):
        PagedKVCache(torch.zeros(2, 2, 100), 16, 8, 8)
    with pytest.raises(TypeError, match="data must be"):
        PagedKVCache(torch.zeros(2, 2, 16 * 16, dtype=torch.int8), 16, 8, 8)
