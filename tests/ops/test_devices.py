"""Tensors of different devices in one call are refused: what torch then calls must not read or return garbage."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyllm import ops
from pyllm.quantization import quantize


def _quantized(x: Tensor, weight: Tensor) -> Tensor:
    return ops.quantized_linear(x, quantize(torch.ones(4, 32), "q8_0").to(weight.device))


CALLS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "linear": lambda x, other: ops.linear(x, other.expand(4, 32)),
    "rms_norm": lambda x, other: ops.rms_norm(x, other[0]),
    "add_rms_norm": lambda x, other: ops.rms_norm(x, x[0], residual=other),
    "layer_norm": lambda x, other: ops.layer_norm(x, other[0]),
    "swiglu": lambda x, other: ops.swiglu(x, other),
    "attention": lambda x, other: ops.attention(x[None, None], x[None, None], other[None, None]),
    "linear_cross_entropy": lambda x, other: ops.linear_cross_entropy(
        x, other, torch.zeros(1, dtype=torch.int64)
    ),
    "quantized_linear": _quantized,
}


@pytest.mark.parametrize("name", CALLS)
def test_mixed_devices_are_refused(name: str) -> None:
    x = torch.ones(1, 32)
    CALLS[name](x, torch.ones(1, 32))
    with pytest.raises((RuntimeError, ValueError), match="device"):
        CALLS[name](x, torch.ones(1, 32, device="meta"))
