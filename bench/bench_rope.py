from __future__ import annotations

import functools
from typing import Any

import torch

from pyllm.ops import rope

from . import rivals
from .case import DTYPES, HEAD_DIM, HEADS, KV_HEADS, OURS, TOKENS, Call, Case, calls, direction, randn, short


def build(dtype: torch.dtype, grad: bool) -> dict[str, Call]:
    frequencies = 10000.0 ** (-torch.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
    angles = torch.arange(TOKENS)[:, None] * frequencies
    q, k = (randn(1, heads, TOKENS, HEAD_DIM, dtype=dtype, grad=grad) for heads in (HEADS, KV_HEADS))
    contenders = {OURS: rope, rivals.TORCH: rivals.rope, rivals.COMPILED: rivals.compiled(rivals.rope)}
    return calls(contenders, (q, k, angles.cos(), angles.sin()))


def cases() -> list[Case]:
    found = []
    for dtype in DTYPES:
        for grad in (False, True):
            numbers = (HEADS + KV_HEADS) * TOKENS * HEAD_DIM * (2 if grad else 1)
            name = f"{TOKENS} x ({HEADS} + {KV_HEADS}) x {HEAD_DIM} {short(dtype)}"
            moved, make = 2 * numbers * dtype.itemsize, functools.partial(build, dtype, grad)
            found.append(Case(name, dtype, direction(grad), moved, 3 * numbers, make))
    return found


def test_rope(benchmark: Any, call: Any) -> None:
    benchmark(call)
