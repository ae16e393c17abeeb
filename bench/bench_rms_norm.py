from __future__ import annotations

import functools
from typing import Any

import torch

from pyllm.ops import rms_norm

from . import rivals
from .case import DTYPES, OURS, TOKENS, WIDTH, Call, Case, calls, direction, randn, short


def build(dtype: torch.dtype, grad: bool) -> dict[str, Call]:
    inputs = randn(TOKENS, WIDTH, dtype=dtype, grad=grad), randn(WIDTH, dtype=dtype, grad=grad)
    plain = rivals.rms_norm
    return calls({OURS: rms_norm, rivals.TORCH: plain, rivals.COMPILED: rivals.compiled(plain)}, inputs)


def cases() -> list[Case]:
    found = []
    for dtype in DTYPES:
        for grad in (False, True):
            numbers = TOKENS * WIDTH
            moved = (5 if grad else 2) * numbers * dtype.itemsize  # x, y; grad_y, x, grad_x
            name = f"{TOKENS} x {WIDTH} {short(dtype)}"
            make = functools.partial(build, dtype, grad)
            found.append(Case(name, dtype, direction(grad), moved, 4 * numbers, make))
    return found


def test_rms_norm(benchmark: Any, call: Any) -> None:
    benchmark(call)
