from __future__ import annotations

import functools
import itertools
from typing import Any

import torch

from pyllm.ops import swiglu

from . import rivals
from .case import DTYPES, FFN_WIDTH, OURS, TOKENS, Call, Case, calls, direction, randn, short

SHAPES = ((TOKENS, FFN_WIDTH), (4096, 5504))


def build(shape: tuple[int, int], dtype: torch.dtype, grad: bool) -> dict[str, Call]:
    inputs = [randn(*shape, dtype=dtype, grad=grad, seed=seed) for seed in range(2)]
    plain = rivals.swiglu
    return calls({OURS: swiglu, rivals.TORCH: plain, rivals.COMPILED: rivals.compiled(plain)}, inputs)


def cases() -> list[Case]:
    found = []
    for shape, dtype, grad in itertools.product(SHAPES, DTYPES, (False, True)):
        numbers = shape[0] * shape[1]
        passes = 8 if grad else 3  # gate, up, y; gate, up, grad_y, grad_gate, grad_up
        name = f"{shape[0]} x {shape[1]} {short(dtype)}"
        moved, make = passes * numbers * dtype.itemsize, functools.partial(build, shape, dtype, grad)
        quick = shape == SHAPES[0]
        found.append(Case(name, dtype, direction(grad), moved, 8 * numbers, make, quick=quick))
    return found


def test_swiglu(benchmark: Any, call: Any) -> None:
    benchmark(call)
