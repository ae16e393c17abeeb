from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyllm.ops import linear_cross_entropy

from .case import DTYPES, VOCABULARY, WIDTH, Case, randn, short

ROWS = 128


def plain(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(x, weight).float(), target)


def cases() -> list[Case]:
    target = torch.arange(ROWS) * 191 % VOCABULARY
    found = []
    for dtype in DTYPES:
        for grad in (False, True):
            x = randn(ROWS, WIDTH, dtype=dtype, grad=grad)
            weight = (0.02 * randn(VOCABULARY, WIDTH, dtype=dtype)).requires_grad_(grad)
            products = 3 if grad else 1  # logits, grad_x, grad_weight
            name = f"{ROWS} x {WIDTH} -> {VOCABULARY} {short(dtype)}"
            moved = products * weight.numel() * dtype.itemsize
            flops = products * 2 * ROWS * weight.numel()
            found.append(Case(name, dtype, linear_cross_entropy, plain, (x, weight, target), moved, flops))
    return found


def test_linear_cross_entropy(benchmark: Any, call: Any) -> None:
    benchmark(call)
