from __future__ import annotations

import functools
from typing import Any

import torch

from pyllm.ops import attention

from .case import DTYPES, HEAD_DIM, HEADS, KV_HEADS, TOKENS, Case, randn, short

sdpa = torch.nn.functional.scaled_dot_product_attention


def cases() -> list[Case]:
    found = []
    for dtype in DTYPES:
        for queries, grad in ((1, False), (TOKENS, False), (TOKENS, True)):
            q = randn(1, HEADS, queries, HEAD_DIM, dtype=dtype, grad=grad)
            k, v = (randn(1, KV_HEADS, TOKENS, HEAD_DIM, dtype=dtype, grad=grad) for _ in range(2))
            causal = queries > 1
            pairs = HEADS * (queries * (TOKENS + 1) // 2 if causal else queries * TOKENS)
            flops = (
                pairs * HEAD_DIM * (14 if grad else 4)
            )  # forward: 2 products; backward: scores again and 4 more
            moved = (3 if grad else 1) * dtype.itemsize * (2 * q.numel() + 2 * k.numel())
            name = f"{queries} of {TOKENS}, {HEADS}/{KV_HEADS} heads x {HEAD_DIM} {short(dtype)}"
            ours = functools.partial(attention, is_causal=causal)
            plain = functools.partial(sdpa, is_causal=causal, enable_gqa=True)
            found.append(Case(name, dtype, ours, plain, (q, k, v), moved, flops))
    return found


def test_attention(benchmark: Any, call: Any) -> None:
    benchmark(call)
