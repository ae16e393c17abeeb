from __future__ import annotations

from typing import Any

import torch

from pyllm.ops import sample

from . import rivals
from .case import OURS, VOCABULARY, Call, Case, calls, randn, short

ROWS = 8
TEMPERATURE, TOP_K, TOP_P = 0.8, 50, 0.95
DTYPE = torch.float32


def ours(logits: torch.Tensor) -> torch.Tensor:
    return sample(logits, temperature=TEMPERATURE, top_k=TOP_K, top_p=TOP_P, seed=0, position=0)


def plain(logits: torch.Tensor) -> torch.Tensor:
    return rivals.sample(logits, TEMPERATURE, TOP_K, TOP_P)


def build() -> dict[str, Call]:
    contenders = {OURS: ours, rivals.TORCH: plain, rivals.COMPILED: rivals.compiled(plain)}
    return calls(contenders, (3.0 * randn(ROWS, VOCABULARY, dtype=DTYPE),))


def cases() -> list[Case]:
    name = f"{ROWS} x {VOCABULARY} {short(DTYPE)}, top-k {TOP_K}, top-p {TOP_P}"
    numbers = ROWS * VOCABULARY
    moved = numbers * DTYPE.itemsize
    return [Case(name, DTYPE, "forward", moved, numbers, build, same_result=False)]


def test_sample(benchmark: Any, call: Any) -> None:
    benchmark(call)
