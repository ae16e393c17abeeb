from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyllm.ops import rope

from .case import DTYPES, HEAD_DIM, HEADS, KV_HEADS, TOKENS, Case, randn, short


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return x * torch.cat((cos, cos), -1).to(x.dtype) + torch.cat((-b, a), -1) * torch.cat((sin, sin), -1).to(
        x.dtype
    )


def plain(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return rotate(q, cos, sin), rotate(k, cos, sin)


def cases() -> list[Case]:
    frequencies = 10000.0 ** (-torch.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
    angles = torch.arange(TOKENS)[:, None] * frequencies
    found = []
    for dtype in DTYPES:
        for grad in (False, True):
            q = randn(1, HEADS, TOKENS, HEAD_DIM, dtype=dtype, grad=grad)
            k = randn(1, KV_HEADS, TOKENS, HEAD_DIM, dtype=dtype, grad=grad)
            numbers = (q.numel() + k.numel()) * (2 if grad else 1)
            name = f"{TOKENS} x ({HEADS} + {KV_HEADS}) x {HEAD_DIM} {short(dtype)}"
            inputs = (q, k, angles.cos(), angles.sin())
            found.append(Case(name, dtype, rope, plain, inputs, 2 * numbers * dtype.itemsize, 3 * numbers))
    return found


def test_rope(benchmark: Any, call: Any) -> None:
    benchmark(call)
