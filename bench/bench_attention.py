"""Causal attention of whole sequences, and one query over a short contiguous cache."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from pyllm.ops import attention

from . import rivals
from .case import DTYPES, HEAD_DIM, HEADS, KV_HEADS, OURS, TOKENS, Call, Case, calls, direction, randn, short

# batch, heads, kv_heads, tokens, head_dim
QUICK_SHAPES = ((1, HEADS, KV_HEADS, TOKENS, HEAD_DIM), (1, 16, 16, 1024, 64))
LONG_SHAPES = ((1, 16, 16, 4096, 64), (1, 8, 8, 4096, 128), (4, 9, 3, 512, 64))


def build(
    dtype: torch.dtype, shape: tuple[int, int, int, int, int], queries: int, grad: bool
) -> dict[str, Call]:
    batch, heads, kv_heads, tokens, dim = shape
    q = randn(batch, heads, queries, dim, dtype=dtype, grad=grad)
    k, v = (randn(batch, kv_heads, tokens, dim, dtype=dtype, grad=grad, seed=seed) for seed in (1, 2))
    causal = queries > 1
    contenders: dict[str, Callable[..., Any]] = {
        OURS: functools.partial(attention, is_causal=causal),
        rivals.TORCH: functools.partial(rivals.sdpa, is_causal=causal),
    }
    if causal:
        contenders[rivals.FLEX] = rivals.flex_attention(lambda b, h, i, j: j <= i, None, tokens)
    return calls(contenders, (q, k, v))


def case(
    dtype: torch.dtype, shape: tuple[int, int, int, int, int], queries: int, grad: bool, quick: bool
) -> Case:
    batch, heads, kv_heads, tokens, dim = shape
    pairs = batch * heads * (queries * (tokens + 1) // 2 if queries > 1 else tokens)
    flops = pairs * dim * (14 if grad else 4)  # forward: 2 products; backward: scores again and 4 more
    numbers = batch * dim * 2 * (heads * queries + kv_heads * tokens)
    name = f"{queries} of {tokens}, {batch} x {heads}/{kv_heads} heads x {dim} {short(dtype)}"
    make = functools.partial(build, dtype, shape, queries, grad)
    return Case(
        name, dtype, direction(grad), (3 if grad else 1) * dtype.itemsize * numbers, flops, make, quick=quick
    )


def cases() -> list[Case]:
    found = []
    for dtype in DTYPES:
        found.append(case(dtype, QUICK_SHAPES[0], 1, False, True))
        for shape in (*QUICK_SHAPES, *LONG_SHAPES):
            for grad in (False, True):
                found.append(case(dtype, shape, shape[3], grad, shape in QUICK_SHAPES))
    return found


def small_cases() -> list[Case]:
    """The same at sizes that a test can afford."""
    shape = (2, 6, 2, 40, 16)
    return [
        case(dtype, shape, queries, grad, False)
        for dtype in DTYPES
        for queries, grad in ((1, False), (40, False), (40, True))
    ]


def test_attention(benchmark: Any, call: Any) -> None:
    benchmark(call)
