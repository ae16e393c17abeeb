from __future__ import annotations

import functools
import itertools
from typing import Any

import torch

from pyllm.ops import rope

from . import rivals
from .case import DTYPES, HEAD_DIM, HEADS, KV_HEADS, OURS, TOKENS, Call, Case, calls, direction, randn, short

SHAPES = ((1, TOKENS), (4, 2048))  # batch, tokens


def build(shape: tuple[int, int], dtype: torch.dtype, grad: bool) -> dict[str, Call]:
    batch, tokens = shape
    frequencies = 10000.0 ** (-torch.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
    angles = torch.arange(tokens)[:, None] * frequencies
    q, k = (randn(batch, heads, tokens, HEAD_DIM, dtype=dtype, grad=grad) for heads in (HEADS, KV_HEADS))
    contenders = {OURS: rope, rivals.TORCH: rivals.rope, rivals.COMPILED: rivals.compiled(rivals.rope)}
    return calls(contenders, (q, k, angles.cos(), angles.sin()))


def cases() -> list[Case]:
    found = []
    for shape, dtype, grad in itertools.product(SHAPES, DTYPES, (False, True)):
        rows = shape[0] * shape[1]
        numbers = (HEADS + KV_HEADS) * rows * HEAD_DIM * (2 if grad else 1)
        name = f"{rows} x ({HEADS} + {KV_HEADS}) x {HEAD_DIM} {short(dtype)}"
        moved, make = 2 * numbers * dtype.itemsize, functools.partial(build, shape, dtype, grad)
        quick = shape == SHAPES[0]
        found.append(Case(name, dtype, direction(grad), moved, 3 * numbers, make, quick=quick))
    return found


def test_rope(benchmark: Any, call: Any) -> None:
    benchmark(call)
