from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from pyllm.ops import linear_cross_entropy

from . import rivals
from .case import DTYPES, OURS, VOCABULARY, WIDTH, Call, Case, calls, direction, randn, short

QUICK_SHAPE = (128, WIDTH, VOCABULARY)  # tokens, hidden, vocabulary
SHAPES = (QUICK_SHAPE, (2048, WIDTH, VOCABULARY), (4096, 768, 50257), (1024, 2048, 151936))
# For tests: PyTorch's bfloat16 products take minutes at the shapes above where there is neither AVX-512 nor AMX.
SMALL_SHAPE = (24, 48, 300)


def build(shape: tuple[int, int, int], dtype: torch.dtype, grad: bool) -> dict[str, Call]:
    rows, width, vocabulary = shape
    target = torch.arange(rows) * 191 % vocabulary
    x = randn(rows, width, dtype=dtype, grad=grad)
    weight = (0.02 * randn(vocabulary, width, dtype=dtype)).requires_grad_(grad)
    plain = rivals.linear_cross_entropy
    contenders: dict[str, Callable[..., Any]] = {
        OURS: linear_cross_entropy,
        rivals.TORCH: plain,
        rivals.COMPILED: rivals.compiled(plain),
    }
    return calls(contenders, (x, weight, target))


def cases() -> list[Case]:
    return [found for shape in SHAPES for found in cases_of(shape)]


def small_cases() -> list[Case]:
    return cases_of(SMALL_SHAPE)


def cases_of(shape: tuple[int, int, int]) -> list[Case]:
    return [case(shape, dtype, grad) for dtype in DTYPES for grad in (False, True)]


def case(shape: tuple[int, int, int], dtype: torch.dtype, grad: bool) -> Case:
    rows, width, vocabulary = shape
    products = 3 if grad else 1  # logits, grad_x, grad_weight
    name = f"{rows} x {width} -> {vocabulary} {short(dtype)}"
    moved = products * vocabulary * width * dtype.itemsize
    flops = products * 2 * rows * vocabulary * width
    make = functools.partial(build, shape, dtype, grad)
    return Case(name, dtype, direction(grad), moved, flops, make, quick=shape == QUICK_SHAPE)


def test_linear_cross_entropy(benchmark: Any, call: Any) -> None:
    benchmark(call)
