"""Decoding: one new query per sequence over a paged cache, beside PyTorch over contiguous keys and values.

Caches rotate, as the layers of a model do, so that keys and values come from memory; rows that say "cached" read one
small cache again and again. Quantized pages read a cache of the same tokens beside the same rival.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from pyllm.ops import PagedKVCache, paged_attention, write_kv
from pyllm.ops.quantized_kv import KV_QUANTIZATIONS

from . import rivals
from .case import HEAD_DIM, HEADS, KV_HEADS, OURS, Call, Case, calls, copies_of, randn, rotating, short

PAGE = 64
# heads, kv_heads, head_dim: SmolLM2-135M, and Llama-3-8B's
GROUPS = ((HEADS, KV_HEADS, HEAD_DIM), (32, 8, 128))
# context, batch
SIZES = ((512, 1), (512, 8), (512, 32), (4096, 1), (4096, 8), (32768, 1), (32768, 8))
CACHED_SIZES = ((512, 1), (2048, 1))
QUICK_SIZES = ((4096, 1),)
DTYPE = torch.bfloat16


def build(
    group: tuple[int, int, int], context: int, batch: int, rotate: bool, quantization: str | None
) -> dict[str, Call]:
    copies = copies_of(_cache_bytes(group, context, batch)) if rotate else 1
    return rotating([_calls(group, context, batch, seed, quantization) for seed in range(copies)])


def _calls(
    group: tuple[int, int, int], context: int, batch: int, seed: int, quantization: str | None
) -> dict[str, Call]:
    """Pages are handed out in a scattered order, as after some time of serving."""
    heads, kv_heads, dim = group
    pages = -(-context // PAGE)
    scattered = torch.randperm(batch * pages, generator=torch.Generator().manual_seed(seed))
    table = scattered.view(batch, pages)
    options: dict[str, Any] = {"page_size": PAGE, "dtype": DTYPE, "quantization": quantization}
    cache = PagedKVCache.zeros(batch * pages, kv_heads, dim, **options)
    q = randn(batch, heads, 1, dim, dtype=DTYPE, seed=seed)
    k, v = (randn(1, kv_heads, context, dim, dtype=DTYPE, seed=seed + n) for n in (1, 2))
    k, v = (x.expand(batch, -1, -1, -1).contiguous() for x in (k, v))
    positions = torch.arange(context).expand(batch, -1)
    write_kv(k, v, cache, positions, table)
    lengths = torch.full((batch,), context)
    contenders: dict[str, Any] = {
        OURS: lambda q, k, v: paged_attention(q, cache, table, lengths),
        rivals.TORCH: rivals.sdpa,
    }
    return calls(contenders, (q, k, v))


def _cache_bytes(group: tuple[int, int, int], context: int, batch: int) -> int:
    return 2 * batch * context * group[1] * group[2] * DTYPE.itemsize


def case(
    group: tuple[int, int, int],
    context: int,
    batch: int,
    rotate: bool,
    quick: bool = False,
    quantization: str | None = None,
) -> Case:
    heads, kv_heads, dim = group
    one = PagedKVCache.empty(1, 1, dim, page_size=PAGE, dtype=DTYPE, quantization=quantization)
    moved = batch * kv_heads * context * one.data.nbytes // PAGE + 2 * batch * heads * dim * DTYPE.itemsize
    elements = quantization or short(DTYPE)
    name = f"{batch} x {context}, {heads}/{kv_heads} heads x {dim} {elements}{'' if rotate else ', cached'}"
    make = functools.partial(build, group, context, batch, rotate, quantization)
    return Case(name, DTYPE, "forward", moved, 4 * batch * heads * context * dim, make, quick=quick)


def cases() -> list[Case]:
    found = []
    for group in GROUPS:
        found += [case(group, *size, True, quick=size in QUICK_SIZES) for size in SIZES]
        found += [case(group, *size, False, quick=group is GROUPS[0]) for size in CACHED_SIZES]
        found += [case(group, 4096, 8, True, quantization=kind) for kind in KV_QUANTIZATIONS]
    return found


def small_cases() -> list[Case]:
    """The same at sizes that a test can afford."""
    return [case((6, 2, 32), context, batch, False) for context, batch in ((1, 1), (70, 3), (300, 2))]


def test_paged_attention(benchmark: Any, call: Any) -> None:
    benchmark(call)
