from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyllm.ops import swiglu

from .case import DTYPES, FFN_WIDTH, TOKENS, Case, randn, short


def plain(gate: Tensor, up: Tensor) -> Tensor:
    return torch.nn.functional.silu(gate) * up


def cases() -> list[Case]:
    found = []
    for dtype in DTYPES:
        for grad in (False, True):
            gate, up = (randn(TOKENS, FFN_WIDTH, dtype=dtype, grad=grad) for _ in range(2))
            passes = 8 if grad else 3  # gate, up, y; gate, up, grad_y, grad_gate, grad_up
            moved = passes * gate.numel() * dtype.itemsize
            name = f"{TOKENS} x {FFN_WIDTH} {short(dtype)}"
            found.append(Case(name, dtype, swiglu, plain, (gate, up), moved, 8 * gate.numel()))
    return found


def test_swiglu(benchmark: Any, call: Any) -> None:
    benchmark(call)
