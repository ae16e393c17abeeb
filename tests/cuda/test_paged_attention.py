"""The CUDA kernels over a paged cache, simulated or on a GPU: 16 bits, masks that are intervals."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from pyllm.ops import PagedKVCache, paged_attention, write_kv
from pyllm.ops.attention_reference import attention_reference
from pyllm.ops.paged_attention import _write_kv_reference
from tests.cuda import simulated
from tests.ops.conftest import cuda_levels
from tests.ops.numerics import assert_as_accurate
from tests.ops.test_paged_attention import MASKS, filled, normal

DTYPES = [torch.bfloat16, torch.float16]


@pytest.fixture(params=cuda_levels(), autouse=True)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    with simulated.in_place_of_cpu_kernels(request.param):
        yield request.param


def reference(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, options: dict[str, Any]
) -> tuple[Tensor, ...]:
    options = {"is_causal": True, **options}
    if prefix := options.pop("prefix_length", None):
        options["prefix_length"] = torch.full((q.shape[0],), prefix)
    out, lse = attention_reference(q, k, v, kv_lengths=lengths, **options)
    return out, lse


@pytest.mark.parametrize("options", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_rule(dtype: torch.dtype, options: dict[str, Any]) -> None:
    lengths = torch.tensor([530, 0, 268])
    q = normal(0, 3, 6, 5, 40, dtype=dtype)
    k, v = normal(1, 3, 2, 530, 40, dtype=dtype), normal(2, 3, 2, 530, 24, dtype=dtype)
    cache, table = filled(k, v, lengths.tolist(), 64)
    found = paged_attention(q, cache, table, lengths, return_lse=True, **options)
    plain = reference(q, k, v, lengths, options)
    exact = reference(q.float(), k.float(), v.float(), lengths, options)
    seen = exact[1].isfinite()
    assert torch.equal(found[1] == -torch.inf, ~seen)
    assert (found[0][~seen] == 0).all()
    for mine, theirs, right in zip(found, plain, exact, strict=True):
        assert_as_accurate(mine[seen].float(), theirs[seen].float(), right[seen])


@pytest.mark.parametrize("heads", [(64, 7), (128, 4)], ids=str)
def test_bits_do_not_depend_on_pages_or_chunks(heads: tuple[int, int]) -> None:
    dim, group = heads
    length = 300
    q = normal(0, 1, 2 * group, length, dim, dtype=torch.bfloat16)
    k, v = (normal(i, 1, 2, length, dim, dtype=torch.bfloat16) for i in (1, 2))
    results = []
    for page_size, cuts in ((16, [290, 300]), (256, [290, 291, 297, 300])):
        cache, table = filled(k, v, [0], page_size)
        write_kv(k[:, :, :290], v[:, :, :290], cache, torch.arange(290)[None], table)
        parts = []
        for begin, end in pairwise(cuts):
            new = (x[:, :, begin:end] for x in (k, v))
            write_kv(*new, cache, torch.arange(begin, end)[None], table)
            parts.append(paged_attention(q[:, :, begin:end], cache, table, torch.tensor([end])))
        results.append(torch.cat(parts, 2))
    assert torch.equal(*results)


@pytest.mark.parametrize("narrow", [False, True])
def test_packed_writes_and_queries(narrow: bool) -> None:
    index = torch.int32 if narrow else torch.int64
    k, v = (normal(seed, 9, 2, dim, dtype=torch.bfloat16) for seed, dim in ((0, 24), (1, 40)))
    positions = torch.tensor([17, 3, -1, 30, 0, 16, 31, 2, -5], dtype=index)
    ends, table = torch.tensor([0, 4, 4, 9], dtype=index), torch.tensor([[3, 1], [0, 0], [2, 4]], dtype=index)
    caches = [PagedKVCache.zeros(5, 2, 24, value_dim=40, page_size=16) for _ in range(2)]
    write_kv(k, v, caches[0], positions, table, cu_seqlens_q=ends)
    _write_kv_reference(k, v, caches[1], positions.long(), table.long(), ends.long())
    assert torch.equal(caches[0].data, caches[1].data)
    q, lengths = normal(2, 9, 4, 24, dtype=torch.bfloat16), torch.tensor([20, 7, 32], dtype=index)
    packed = paged_attention(q, caches[0], table, lengths, cu_seqlens_q=ends)
    for row, (begin, end) in enumerate(((0, 4), (4, 4), (4, 9))):
        one = q[begin:end].transpose(0, 1)[None]
        alone = paged_attention(one, caches[0], table[row : row + 1], lengths[row : row + 1])
        assert torch.equal(packed[begin:end], alone[0].transpose(0, 1))


def test_what_nobody_checks_stays_inside_the_cache(level: str) -> None:
    """On a GPU positions, pages and lengths are not read before the launch."""
    if level == "cuda":
        pytest.skip("the same through the public op, which checks what lies on the CPU")
    ops = torch.ops.pyllm_simulated
    k = v = normal(0, 1, 2, 6, 32, dtype=torch.bfloat16)
    cache = PagedKVCache.zeros(3, 2, 32, page_size=16)
    table, wild = torch.tensor([[1, 99]]), torch.tensor([0, 10**12, -3, 17, 31, 15])
    ops.write_kv_.default(k, v, cache.data, wild, table, None, 16)
    written = cache.read(torch.tensor([1]), 16)[0].any(-1).any(0)
    assert written.tolist() == [n in (0, 15) for n in range(16)]
    q = normal(1, 1, 2, 1, 32, dtype=torch.bfloat16)
    arguments = (None, None, None, None, 16, 32, True, None, None, 0, None)
    for table, length in ((torch.tensor([[-5, 10**12]]), 32), (torch.tensor([[1, 2]]), 10**12)):
        out, _ = ops.paged_attention.default(q, cache.data, table, torch.tensor([length]), *arguments)
        assert out.isfinite().all()
