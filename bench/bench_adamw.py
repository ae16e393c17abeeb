from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyllm.optim import AdamW

from . import rivals
from .case import FFN_WIDTH, OURS, WIDTH, Call, Case, randn, short

LAYERS = 8
DTYPE = torch.float32
OPTIONS = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def stepping(make: Callable[..., torch.optim.Optimizer]) -> Callable[[], Tensor]:
    """A call that makes one step over parameters of its own and returns the first of them."""
    parameters = [torch.nn.Parameter(randn(FFN_WIDTH, WIDTH, dtype=DTYPE)) for _ in range(LAYERS)]
    for parameter in parameters:
        parameter.grad = randn(FFN_WIDTH, WIDTH, dtype=DTYPE) / 8
    optimizer = make(parameters, **OPTIONS)

    def step() -> Tensor:
        optimizer.step()
        return parameters[0].detach()

    return step


def build() -> dict[str, Call]:
    return {OURS: stepping(AdamW), rivals.TORCH: stepping(rivals.fused_adamw)}


def cases() -> list[Case]:
    numbers = LAYERS * WIDTH * FFN_WIDTH
    name = f"{LAYERS} x ({FFN_WIDTH} x {WIDTH}) {short(DTYPE)}"
    moved = 7 * numbers * 4  # parameter, gradient and two moments read; three of them written
    return [Case(name, DTYPE, "step", moved, 12 * numbers, build)]


def test_adamw(benchmark: Any, call: Any) -> None:
    benchmark(call)
