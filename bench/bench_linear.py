"""One layer's three products, each by itself: y = x w^T, dX = dY w, dW = dY^T x.

Few rows read the weight once, as a model's forward pass does: weights rotate, so that none is found in a cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pyllm.ops import linear

from . import rivals
from .case import DTYPES, OURS, TOKENS, Call, Case, copies_of, randn, rotating, short

# (in, out) of a feed-forward layer up and down.
LAYERS = {
    "SmolLM2-135M": ((576, 1536), (1536, 576)),
    "1B": ((2048, 8192), (8192, 2048)),
    "7B": ((4096, 11008), (11008, 4096)),
}
ROWS = (1, 4, 16, 64, 256, 1024, 4096)
ROWS_DOWN, ROWS_HALF = (1, 64, 1024), (1, 64, 1024)
ROTATING_ROWS = 16
PASSES = ("forward", "dX", "dW")
CONTENDERS: dict[str, Callable[..., Tensor]] = {OURS: linear, rivals.TORCH: torch.nn.functional.linear}


def build(
    dtype: torch.dtype, shape: tuple[int, int], rows: int, which: str, rotate: bool = True
) -> dict[str, Call]:
    depth, width = shape
    x, weight, grad = (
        randn(*size, dtype=dtype, seed=seed) / 8
        for seed, size in enumerate(((rows, depth), (width, depth), (rows, width)))
    )
    copies = copies_of(weight.nbytes) if rotate and rows <= ROTATING_ROWS else 1
    return rotating([_calls(x, weight.clone(), grad, which) for _ in range(copies)])


def _calls(x: Tensor, weight: Tensor, grad: Tensor, which: str) -> dict[str, Call]:
    if which == "forward":
        no_grad = torch.no_grad()
        return {name: no_grad(functools.partial(f, x, weight)) for name, f in CONTENDERS.items()}
    leaf = (x if which == "dX" else weight).requires_grad_()
    return {
        name: functools.partial(torch.autograd.grad, f(x, weight), leaf, grad, retain_graph=True)
        for name, f in CONTENDERS.items()
    }


def case(
    model: str,
    dtype: torch.dtype,
    shape: tuple[int, int],
    rows: int,
    which: str,
    quick: bool = False,
    rotate: bool = True,
) -> Case:
    depth, width = shape
    moved = dtype.itemsize * (rows * depth + depth * width + rows * width)
    name = f"{model} {rows} x {depth} -> {width} {short(dtype)}"
    make = functools.partial(build, dtype, shape, rows, which, rotate)
    return Case(name, dtype, which, moved, 2 * rows * depth * width, make, quick=quick)


def cases() -> list[Case]:
    up = LAYERS["SmolLM2-135M"][0]
    found = [
        case("SmolLM2-135M", dtype, up, rows, which, quick=True)
        for dtype in DTYPES
        for rows in (1, TOKENS)
        for which in (PASSES if rows > 1 else PASSES[:1])
    ]
    return [*found, *_long_form()]


def _long_form() -> Iterable[Case]:
    for dtype in (torch.bfloat16, torch.float32, torch.float16):
        for model, shapes in LAYERS.items():
            for shape, all_rows in zip(shapes, (ROWS, ROWS_DOWN), strict=True):
                for rows in ROWS_HALF if dtype is torch.float16 else all_rows:
                    for which in PASSES:
                        yield case(model, dtype, shape, rows, which)


def small_cases() -> list[Case]:
    """The same at sizes that a test can afford."""
    return [
        case("small", dtype, (48, 80), rows, which, rotate=False)
        for dtype in (*DTYPES, torch.float16)
        for rows in (1, 24)
        for which in PASSES
    ]


def test_linear(benchmark: Any, call: Any) -> None:
    benchmark(call)
