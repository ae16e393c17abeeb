"""One linear layer per expert over rows sorted by expert: dense weights or quantized ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyllm.ops.linear import linear
from pyllm.ops.quantized_linear import quantized_linear
from pyllm.ops.quantized_tensor import QuantizedTensor


def grouped_linear(x: Tensor, weights: Tensor | Sequence[QuantizedTensor], offsets: Tensor) -> Tensor:
    """y[i] = weights[e] @ x[i] for the rows i of expert e, offsets[e] <= i < offsets[e + 1].

    A row has the bits that `linear` or `quantized_linear` gives it alone, whoever else came to the expert.

    Args:
        x: (tokens, in), rows sorted by expert; float64, float32, bfloat16 or float16.
        weights: (experts, out, in) of x's dtype, or a sequence of quantized weights (out, in).
        offsets: (experts + 1,) integers on the CPU, ascending from 0 to tokens; experts without rows are welcome.

    Returns:
        (tokens, out), dtype of x. Gradients flow to x and to dense weights.

    Raises:
        ValueError: shapes or offsets do not fit. TypeError: dtypes do not fit.
    """
    bounds = _bounds(x, len(weights), offsets)
    shapes = {tuple(weight.shape) for weight in weights}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2 or shape[1] != x.shape[1]:
        raise ValueError(
            f"grouped_linear: weights must be matrices (out, in) of one shape with in = {x.shape[1]}"
        )
    parts = [
        linear(x[first:end], weight) if isinstance(weight, Tensor) else quantized_linear(x[first:end], weight)
        for weight, first, end in zip(weights, bounds, bounds[1:], strict=False)
        if end > first
    ]
    return torch.cat(parts) if parts else x.new_empty((0, shape[0]))


def _bounds(x: Tensor, experts: int, offsets: Tensor) -> list[int]:
    if x.dim() != 2:
        raise ValueError(f"grouped_linear: x must be (tokens, in), got {tuple(x.shape)}")
    if experts == 0 or offsets.shape != (experts + 1,) or offsets.is_floating_point():
        raise ValueError(
            f"grouped_linear: offsets must be {experts + 1} integers for {experts} experts, at least one, "
            f"got {tuple(offsets.shape)} of {offsets.dtype}"
        )
    bounds: list[int] = offsets.tolist()
    if bounds[0] != 0 or bounds[-1] != x.shape[0] or sorted(bounds) != bounds:
        raise ValueError(f"grouped_linear: offsets must ascend from 0 to {x.shape[0]}, got {bounds}")
    return bounds
