"""A linear layer over a quantized weight, beside torch's own kernels for such weights and a dense product.

Weights rotate, so that none is found in a cache. The 4-bit rows share one weight with torch's int4 kernel, the 8-bit
rows one with its int8 kernel; dense products get the same values in their own dtype.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyllm.ops import QuantizedTensor, quantized_linear

from .case import OURS, Call, Case, copies_of, randn

INT4, INT8, DENSE, DENSE_FLOAT = "torch int4pack", "torch int8pack", "torch bf16", "torch fp32"
# (in, out) from an attention projection of 1B to a feed-forward layer of 8B.
LAYERS = ((2048, 2048), (4096, 4096), (4096, 14336), (14336, 4096))
ROWS = (1, 4, 16, 64, 512)
GROUP = 32
FORMATS = ("int4_g32", "int8")
ROTATING_ROWS = 16


def build(format: str, shape: tuple[int, int], rows: int, int8: bool, rotate: bool = True) -> dict[str, Call]:
    depth, width = shape
    x = randn(rows, depth, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    high = 8 if format == "int4_g32" else 128
    codes = torch.randint(-high, high, (width, depth), generator=generator)
    groups = depth // GROUP if format == "int4_g32" else 1
    # Scales that bfloat16 and float16 hold, as torch's kernels want them.
    scales = ((torch.rand(width, groups, generator=generator) + 0.5) / 64 / high).bfloat16().float()
    weight = QuantizedTensor.from_codes(format, codes, scales)
    activation = "int8" if int8 else None
    contenders: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
        OURS: (
            lambda data: quantized_linear(x, dataclasses.replace(weight, data=data), activation=activation),
            weight.data,
        )
    }
    if format == "int4_g32":
        with_zeros = torch.stack((scales.t(), torch.zeros_like(scales).t()), -1).bfloat16().contiguous()
        packed = torch._convert_weight_to_int4pack_for_cpu((codes + 8).int(), 1)
        contenders[INT4] = (lambda w: torch._weight_int4pack_mm_for_cpu(x, w, GROUP, with_zeros), packed)
    else:
        per_output = scales[:, 0].bfloat16()
        contenders[INT8] = (lambda w: torch._weight_int8pack_mm(x, w, per_output), codes.to(torch.int8))
    wide = x.float()
    contenders[DENSE] = (lambda w: torch.nn.functional.linear(x, w), weight.dequantize(torch.bfloat16))
    contenders[DENSE_FLOAT] = (lambda w: torch.nn.functional.linear(wide, w), weight.dequantize())
    return {
        name: _rotating(call, w, copies_of(w.nbytes) if rotate and rows <= ROTATING_ROWS else 1)
        for name, (call, w) in contenders.items()
    }


def _rotating(call: Callable[[Tensor], Tensor], weight: Tensor, copies: int) -> Call:
    """Walks round copies of the weight, one further with every call."""
    weights = itertools.cycle([weight, *(weight.clone() for _ in range(copies - 1))])
    return torch.no_grad()(lambda: call(next(weights)))


def case(
    format: str,
    shape: tuple[int, int],
    rows: int,
    int8: bool = False,
    quick: bool = False,
    rotate: bool = True,
) -> Case:
    depth, width = shape
    bits = 4.5 if format == "int4_g32" else 8
    moved = int(depth * width * bits / 8) + 2 * rows * (depth + width)
    name = f"{format}{' int8 activations' if int8 else ''} {rows} x {depth} -> {width} bf16"
    make = functools.partial(build, format, shape, rows, int8, rotate)
    return Case(name, torch.bfloat16, "forward", moved, 2 * rows * depth * width, make, quick=quick)


def cases() -> list[Case]:
    found = [
        case(format, LAYERS[1], rows, int8, quick=True)
        for format in FORMATS
        for int8 in (False, True)
        for rows in (1, 64)
    ]
    for format in FORMATS:
        for shape in LAYERS:
            found += [case(format, shape, rows, int8) for int8 in (False, True) for rows in ROWS]
    return found


def small_cases() -> list[Case]:
    """The same at sizes that a test can afford."""
    return [
        case(format, (64, 128), rows, int8, rotate=False)
        for format in FORMATS
        for int8 in (False, True)
        for rows in (1, 24)
    ]


def test_quantized_linear(benchmark: Any, call: Any) -> None:
    benchmark(call)
