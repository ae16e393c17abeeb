from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyllm.ops import rms_norm

from .case import DTYPES, TOKENS, WIDTH, Case, randn, short


def plain(x: Tensor, weight: Tensor) -> Tensor:
    return torch.nn.functional.rms_norm(x, weight.shape, weight, 1e-6)


def cases() -> list[Case]:
    found = []
    for dtype in DTYPES:
        for grad in (False, True):
            x, weight = randn(TOKENS, WIDTH, dtype=dtype, grad=grad), randn(WIDTH, dtype=dtype, grad=grad)
            passes = 5 if grad else 2  # x, y; grad_y, x, grad_x
            moved = passes * x.numel() * dtype.itemsize
            name = f"{TOKENS} x {WIDTH} {short(dtype)}"
            found.append(Case(name, dtype, rms_norm, plain, (x, weight), moved, 4 * x.numel()))
    return found


def test_rms_norm(benchmark: Any, call: Any) -> None:
    benchmark(call)
