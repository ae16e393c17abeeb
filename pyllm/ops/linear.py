"""Linear layer: y = x @ weight.T + bias, with float32 accumulation and bits that do not depend on the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyllm.ops import _library


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, out_dtype: torch.dtype | None = None
) -> Tensor:
    """y = x @ weight.T + bias.

    Args:
        x: (..., in), float64, float32, bfloat16 or float16; any strides.
        weight: (out, in), dtype of x.
        bias: (out,), dtype of x.
        out_dtype: torch.float32 returns the sums of bfloat16 and float16 inputs as they are (logits); None: dtype of x.
            The gradient of such a y is rounded to the dtype of x before it is multiplied.

    Returns:
        (..., out). Sums are kept in float32 (float64 for float64), bias included, and rounded once.

    Raises:
        ValueError: shapes do not fit. TypeError: dtypes do not fit.
    """
    _check(x, weight, bias, out_dtype)
    if not _library.has_kernels(x):
        return linear_reference(x, weight, bias, out_dtype=out_dtype)
    return torch.ops.pyllm.linear.default(x, weight, bias, out_dtype is not None)


def linear_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, out_dtype: torch.dtype | None = None
) -> Tensor:
    """The same in plain PyTorch: the definition, and the fallback on devices without kernels."""
    if out_dtype is not None:
        x, weight, bias = x.to(out_dtype), weight.to(out_dtype), None if bias is None else bias.to(out_dtype)
    return torch.nn.functional.linear(x, weight, bias)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, out_dtype: torch.dtype | None) -> None:
    _library.check_dtype("linear", "x", x)
    if out_dtype is not None and (out_dtype != torch.float32 or x.dtype == torch.float64):
        raise TypeError(
            f"linear: out_dtype must be torch.float32 or None, got {out_dtype} for x of {x.dtype}"
        )
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


@_library.register_fake("linear")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, float32_out: bool = False) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.float32 if float32_out else x.dtype)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, bool], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    """All three gradients are products of the same op, which reads transposed operands in place."""
    x, weight = ctx.saved_tensors
    grad_y = grad_y.to(x.dtype)
    product = torch.ops.pyllm.linear.default
    grad_x = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = product(grad_y, weight.t(), None)
    columns = grad_y.reshape(-1, weight.shape[0]).t()
    if ctx.needs_input_grad[1]:
        grad_weight = product(columns, x.reshape(-1, weight.shape[1]).t(), None)
    if ctx.needs_input_grad[2]:
        # Tokens are summed by a product with ones: torch.sum's order depends on the number of threads.
        grad_bias = product(columns.new_ones((1, columns.shape[1])), columns, None)[0]
    return grad_x, grad_weight, grad_bias, None


_library.register_autograd("linear", _backward, _setup)
_library.register_autocast("linear", lower=True)
