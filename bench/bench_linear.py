from __future__ import annotations

from typing import Any

import torch

from pyllm.ops import linear

from .case import DTYPES, FFN_WIDTH, TOKENS, WIDTH, Case, randn, short


def cases() -> list[Case]:
    found = []
    for dtype in DTYPES:
        for rows, grad in ((1, False), (TOKENS, False), (TOKENS, True)):
            x, weight = (
                randn(rows, WIDTH, dtype=dtype, grad=grad),
                randn(FFN_WIDTH, WIDTH, dtype=dtype, grad=grad),
            )
            products = 3 if grad else 1  # y, grad_x, grad_weight
            moved = products * dtype.itemsize * (x.numel() + weight.numel() + rows * FFN_WIDTH)
            flops = products * 2 * rows * WIDTH * FFN_WIDTH
            name = f"{rows} x {WIDTH} -> {FFN_WIDTH} {short(dtype)}"
            found.append(Case(name, dtype, linear, torch.nn.functional.linear, (x, weight), moved, flops))
    return found


def test_linear(benchmark: Any, call: Any) -> None:
    benchmark(call)
