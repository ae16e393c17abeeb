"""Layer normalization, with an optional fused residual addition."""

from __future__ import annotations

import math
from typing import Any, overload

import torch
from torch import Tensor

from pyllm.ops import _library


@overload
def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None = ..., eps: float = ..., *, residual: None = ...
) -> Tensor: ...
@overload
def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None = ..., eps: float = ..., *, residual: Tensor
) -> tuple[Tensor, Tensor]: ...


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = (h - mean(h)) / sqrt(variance(h) + eps) * weight + bias, with h = x, or x + residual.

    From Ba, Kiros and Hinton, "Layer Normalization", 2016.

    Args:
        x: (..., columns), float64, float32, bfloat16 or float16; any strides.
        weight: (columns,), dtype of x.
        bias: (columns,), dtype of x; None for norms without one.
        eps: added to the variance.
        residual: shape and dtype of x; added to x first, the sum rounded to x's dtype.

    Returns:
        y, or (y, h) if a residual was given. Sums are kept in float32 (float64 for float64).

    Raises:
        ValueError: shapes do not fit. TypeError: dtypes do not fit.
    """
    if not _library.runs_kernels(x, cuda=x.is_cuda and _fits_cuda(x)):
        _check(x, weight, bias, residual)
        return layer_norm_reference(x, weight, bias, eps, residual=residual)
    try:
        if residual is None:
            return _library.call(torch.ops.pyllm.layer_norm.default, x, weight, bias, eps)[0]
        op = torch.ops.pyllm.add_layer_norm.default
        y, residual_out, _, _ = _library.call(op, x, residual, weight, bias, eps)
        return y, residual_out
    except RuntimeError:
        _check(x, weight, bias, residual)  # the kernel's shim checks the same: here only to say it in full
        raise


def layer_norm_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The same in plain PyTorch: the definition, and the fallback on devices without kernels."""
    h = x if residual is None else x + residual
    y = torch.nn.functional.layer_norm(h, weight.shape, weight, bias, eps)
    return y if residual is None else (y, h)


def _fits_cuda(x: Tensor) -> bool:
    """True if a row fits into the registers of a block of the CUDA kernel's backward."""
    return x.dim() > 0 and x.shape[-1] <= 8192


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> None:
    _library.check_dtype("layer_norm", "x", x)
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is None:
            continue
        if x.dim() == 0 or parameter.dim() != 1 or parameter.shape[0] != x.shape[-1]:
            raise ValueError(
                f"layer_norm: {name} must have shape (columns,) with columns = x.shape[-1], got {name} "
                f"{tuple(parameter.shape)} for x {tuple(x.shape)}"
            )
        _check_same_dtype(x, name, parameter)
    if residual is not None:
        if residual.shape != x.shape:
            raise ValueError(
                f"layer_norm: residual must have the shape of x, {tuple(x.shape)}, got {tuple(residual.shape)}"
            )
        _check_same_dtype(x, "residual", residual)


def _check_same_dtype(x: Tensor, name: str, other: Tensor) -> None:
    if other.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"layer_norm: {name} must have the dtype of x, {x.dtype}, got {other.dtype}")


def _per_row(x: Tensor) -> Tensor:
    rows = math.prod(x.shape[:-1])  # Size.numel would fix a symbolic length
    return x.new_empty((rows,), dtype=torch.promote_types(x.dtype, torch.float32))


@_library.register_fake("layer_norm")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, weight, bias, None)
    return x.new_empty(x.shape), _per_row(x), _per_row(x)


@_library.register_fake("add_layer_norm")
def _(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(x, weight, bias, residual)
    return x.new_empty(x.shape), x.new_empty(x.shape), _per_row(x), _per_row(x)


@_library.register_fake("layer_norm_backward")
def _(
    grad_y: Tensor, grad_residual_out: Tensor | None, h: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return h.new_empty(h.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, _ = inputs
    _, mean, rstd = output
    ctx.has_bias = bias is not None
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(x, weight, mean, rstd)


def _backward(ctx: Any, grad_y: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    op = torch.ops.pyllm.layer_norm_backward.default
    grad_x, grad_weight, grad_bias = op(grad_y, None, *ctx.saved_tensors)
    return grad_x, grad_weight, grad_bias if ctx.has_bias else None, None


def _setup_add(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    _, _, weight, bias, _ = inputs
    _, h, mean, rstd = output
    ctx.has_bias = bias is not None
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(h, weight, mean, rstd)


def _backward_add(
    ctx: Any, grad_y: Tensor, grad_residual_out: Tensor, *_: Tensor
) -> tuple[Tensor | None, ...]:
    op = torch.ops.pyllm.layer_norm_backward.default
    grad_x, grad_weight, grad_bias = op(grad_y, grad_residual_out, *ctx.saved_tensors)
    return grad_x, grad_x, grad_weight, grad_bias if ctx.has_bias else None, None


_library.register_autograd("layer_norm", _backward, _setup)
_library.register_autograd("add_layer_norm", _backward_add, _setup_add)
_library.register_autocast("layer_norm", lower=False)
_library.register_autocast("add_layer_norm", lower=False)
