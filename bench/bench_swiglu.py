from __future__ import annotations

import functools
from typing import Any

import torch

from pyllm.ops import swiglu

from . import rivals
from .case import DTYPES, FFN_WIDTH, OURS, TOKENS, Call, Case, calls, direction, randn, short


def build(dtype: torch.dtype, grad: bool) -> dict[str, Call]:
    inputs = [randn(TOKENS, FFN_WIDTH, dtype=dtype, grad=grad, seed=seed) for seed in range(2)]
    plain = rivals.swiglu
    return calls({OURS: swiglu, rivals.TORCH: plain, rivals.COMPILED: rivals.compiled(plain)}, inputs)


def cases() -> list[Case]:
    found = []
    for dtype in DTYPES:
        for grad in (False, True):
            numbers = TOKENS * FFN_WIDTH
            passes = 8 if grad else 3  # gate, up, y; gate, up, grad_y, grad_gate, grad_up
            name = f"{TOKENS} x {FFN_WIDTH} {short(dtype)}"
            moved, make = passes * numbers * dtype.itemsize, functools.partial(build, dtype, grad)
            found.append(Case(name, dtype, direction(grad), moved, 8 * numbers, make))
    return found


def test_swiglu(benchmark: Any, call: Any) -> None:
    benchmark(call)
