from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from pyllm.ops import linear_cross_entropy

from . import rivals
from .case import DTYPES, OURS, VOCABULARY, WIDTH, Call, Case, calls, direction, randn, short

ROWS = 128


def build(dtype: torch.dtype, grad: bool) -> dict[str, Call]:
    target = torch.arange(ROWS) * 191 % VOCABULARY
    x = randn(ROWS, WIDTH, dtype=dtype, grad=grad)
    weight = (0.02 * randn(VOCABULARY, WIDTH, dtype=dtype)).requires_grad_(grad)
    plain = rivals.linear_cross_entropy
    contenders: dict[str, Callable[..., Any]] = {
        OURS: linear_cross_entropy,
        rivals.TORCH: plain,
        rivals.COMPILED: rivals.compiled(plain),
    }
    return calls(contenders, (x, weight, target))


def cases() -> list[Case]:
    found = []
    for dtype in DTYPES:
        for grad in (False, True):
            products = 3 if grad else 1  # logits, grad_x, grad_weight
            name = f"{ROWS} x {WIDTH} -> {VOCABULARY} {short(dtype)}"
            moved = products * VOCABULARY * WIDTH * dtype.itemsize
            flops = products * 2 * ROWS * VOCABULARY * WIDTH
            make = functools.partial(build, dtype, grad)
            found.append(Case(name, dtype, direction(grad), moved, flops, make))
    return found


def test_linear_cross_entropy(benchmark: Any, call: Any) -> None:
    benchmark(call)
