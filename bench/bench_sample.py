from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from pyllm.ops import sample

from .case import VOCABULARY, Case, randn, short

ROWS = 8
TEMPERATURE, TOP_K, TOP_P = 0.8, 50, 0.95


def plain(logits: Tensor) -> Tensor:
    kept, ids = torch.topk(logits / TEMPERATURE, TOP_K)
    probabilities = kept.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(before >= TOP_P, 0.0)
    return ids.gather(-1, torch.multinomial(probabilities, 1)).squeeze(-1)


def cases() -> list[Case]:
    logits = 3.0 * randn(ROWS, VOCABULARY, dtype=torch.float32)
    ours = functools.partial(sample, temperature=TEMPERATURE, top_k=TOP_K, top_p=TOP_P, seed=0, position=0)
    name = f"{ROWS} x {VOCABULARY} {short(logits.dtype)}, top-k {TOP_K}, top-p {TOP_P}"
    moved = logits.numel() * logits.itemsize
    return [Case(name, logits.dtype, ours, plain, (logits,), moved, logits.numel(), same_result=False)]


def test_sample(benchmark: Any, call: Any) -> None:
    benchmark(call)
