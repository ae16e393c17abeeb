"""The experts of a layer: one grouped product beside one call per expert, and beside torch's grouped_mm.

Rows are spread unevenly, as routers do. Few rows read every expert once: weights rotate, so that none is found in a
cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyllm.ops import grouped_linear
from pyllm.ops.grouped_linear import grouped_linear_reference
from pyllm.quantization import quantize

from .case import DTYPES, OURS, Call, Case, calls, copies_of, direction, randn, rotating, short

COMPOSED, GROUPED_MM = "one call per expert", "torch grouped_mm"
# (experts, in, out): an eighth of Mixtral's width, and Qwen3-30B-A3B's experts, up and down.
LAYERS = {"8": (8, 1024, 3584), "64 up": (64, 2048, 768), "64 down": (64, 768, 2048)}
ROTATING_ROWS_PER_EXPERT = 16


def offsets_of(rows: int, experts: int) -> Tensor:
    """Rows drawn with probabilities that fall from expert to expert down to a fourth."""
    weights = torch.linspace(1, 0.25, experts)
    drawn = torch.multinomial(weights, rows, replacement=True, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=experts)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def grouped_mm(x: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    return torch.nn.functional.grouped_mm(x, weights.transpose(1, 2), offs=offsets[1:].int())


def build(
    dtype: torch.dtype,
    layer: tuple[int, int, int],
    rows: int,
    format: str | None,
    grad: bool,
    rotate: bool = True,
) -> dict[str, Call]:
    experts, depth, width = layer
    x, offsets = randn(rows, depth, dtype=dtype, grad=grad), offsets_of(rows, experts)
    weights = (randn(experts, width, depth, dtype=torch.float32, seed=1) / depth**0.5).to(dtype)
    contenders: dict[str, Callable[..., Any]] = {OURS: grouped_linear, COMPOSED: grouped_linear_reference}
    if format is not None:
        packed = [quantize(weight.float(), format) for weight in weights]
        return calls(contenders, (x, packed, offsets))
    contenders[GROUPED_MM] = grouped_mm
    few = rotate and rows <= ROTATING_ROWS_PER_EXPERT * experts and not grad
    copies = copies_of(weights.nbytes) if few else 1
    return rotating(
        [calls(contenders, (x, weights.clone().requires_grad_(grad), offsets)) for _ in range(copies)]
    )


def case(
    name: str,
    dtype: torch.dtype,
    rows: int,
    *,
    format: str | None = None,
    grad: bool = False,
    quick: bool = False,
    layer: tuple[int, int, int] | None = None,
) -> Case:
    experts, depth, width = layer or LAYERS[name]
    visited = min(rows, experts)
    bits = 8 * dtype.itemsize if format is None else 4.5
    moved = int(visited * depth * width * bits / 8) + dtype.itemsize * rows * (depth + width)
    label = f"{name}: {experts} experts, {rows} x {depth} -> {width} {short(dtype)}{f' {format}' if format else ''}"
    make = functools.partial(build, dtype, (experts, depth, width), rows, format, grad, rotate=layer is None)
    passes = 3 if grad else 1
    return Case(
        label, dtype, direction(grad), passes * moved, 2 * passes * rows * depth * width, make, quick=quick
    )


def cases() -> list[Case]:
    found = [
        case("8", dtype, rows, quick=True, grad=grad)
        for dtype in DTYPES
        for rows, grad in ((8, False), (512, False), (512, True))
    ]
    found += [case("8", torch.bfloat16, rows, format="q4_0", quick=True) for rows in (8, 512)]
    for name in ("64 up", "64 down"):
        for rows in (8, 512, 4096):
            found.append(case(name, torch.bfloat16, rows))
            found.append(case(name, torch.bfloat16, rows, format="q4_0"))
    return found


def small_cases() -> list[Case]:
    """The same at sizes that a test can afford."""
    layer = (3, 64, 128)
    return [
        case(f"small {rows}", dtype, rows, format=format, grad=grad, layer=layer)
        for dtype in DTYPES
        for rows in (2, 40)
        for format, grad in ((None, False), (None, True), ("q4_0", False))
    ]


def test_grouped_linear(benchmark: Any, call: Any) -> None:
    benchmark(call)
