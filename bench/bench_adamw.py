from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyllm.optim import AdamW

from .case import FFN_WIDTH, WIDTH, Case, randn, short

LAYERS = 8
OPTIONS = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def stepping(make: Callable[..., torch.optim.Optimizer]) -> Callable[[], Tensor]:
    """A call that makes one step over parameters of its own and returns the first of them."""
    parameters = [torch.nn.Parameter(randn(FFN_WIDTH, WIDTH, dtype=torch.float32)) for _ in range(LAYERS)]
    for parameter in parameters:
        parameter.grad = randn(FFN_WIDTH, WIDTH, dtype=torch.float32) / 8
    optimizer = make(parameters, **OPTIONS)

    def step() -> Tensor:
        optimizer.step()
        return parameters[0].detach()

    return step


def torch_fused(parameters: list[torch.nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, fused=True, **options)


def cases() -> list[Case]:
    numbers = LAYERS * WIDTH * FFN_WIDTH
    name = f"{LAYERS} x ({FFN_WIDTH} x {WIDTH}) {short(torch.float32)}"
    ours, plain = stepping(AdamW), stepping(torch_fused)
    moved = 7 * numbers * 4  # parameter, gradient and two moments read; three of them written
    return [Case(name, torch.float32, ours, plain, (), moved, 12 * numbers, can_compile=False)]


def test_adamw(benchmark: Any, call: Any) -> None:
    benchmark(call)
