from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyllm.ops import layer_norm

from . import rivals
from .case import DTYPES, OURS, TOKENS, Call, Case, calls, direction, randn, short

# Rows and columns of GPT-2 and BERT's small models.
WIDTH = 768
SHAPES = ((TOKENS, WIDTH), (4096, WIDTH), (1, WIDTH))


def ours_with_residual(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    return layer_norm(x, weight, bias, residual=residual)


def build(shape: tuple[int, int], dtype: torch.dtype, grad: bool, residual: bool) -> dict[str, Call]:
    inputs = [randn(*shape, dtype=dtype, grad=grad)]
    inputs += [randn(shape[1], dtype=dtype, grad=grad, seed=seed) for seed in (2, 3)]
    ours: Callable[..., Any] = layer_norm
    plain: Callable[..., Any] = rivals.layer_norm
    if residual:
        inputs.append(randn(*shape, dtype=dtype, grad=grad, seed=1))
        ours, plain = ours_with_residual, rivals.add_layer_norm
    return calls({OURS: ours, rivals.TORCH: plain, rivals.COMPILED: rivals.compiled(plain)}, inputs)


def small_cases() -> list[Case]:
    """Without the 4096 rows: PyTorch adds their bfloat16 weight gradients up in bfloat16, and is off by a tenth."""
    return cases(tuple(shape for shape in SHAPES if shape[0] <= TOKENS))


def cases(shapes: tuple[tuple[int, int], ...] = SHAPES) -> list[Case]:
    found = []
    for shape, residual, dtype, grad in itertools.product(shapes, (False, True), DTYPES, (False, True)):
        numbers = shape[0] * shape[1]
        # x, y; grad_y, x, grad_x. With a residual: x, residual, y, h; grad_y, grad_h, h, grad_x.
        passes = (8 if grad else 4) if residual else (5 if grad else 2)
        name = f"{shape[0]} x {shape[1]}{' + residual' if residual else ''} {short(dtype)}"
        make = functools.partial(build, shape, dtype, grad, residual)
        moved = passes * numbers * dtype.itemsize
        quick = shape == SHAPES[0] and not residual
        found.append(Case(name, dtype, direction(grad), moved, 4 * numbers, make, quick=quick))
    return found


def test_layer_norm(benchmark: Any, call: Any) -> None:
    benchmark(call)
