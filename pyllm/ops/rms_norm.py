"""Root-mean-square layer normalization, with an optional fused residual addition."""

from __future__ import annotations

import math
from typing import Any, overload

import torch
from torch import Tensor

from pyllm.ops import _library


@overload
def rms_norm(
    x: Tensor, weight: Tensor, eps: float = ..., *, residual: None = ..., weight_offset: float = ...
) -> Tensor: ...
@overload
def rms_norm(
    x: Tensor, weight: Tensor, eps: float = ..., *, residual: Tensor, weight_offset: float = ...
) -> tuple[Tensor, Tensor]: ...


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float = 1e-6,
    *,
    residual: Tensor | None = None,
    weight_offset: float = 0.0,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = h / sqrt(mean(h^2) + eps) * (weight + weight_offset), with h = x, or x + residual (Zhang and Sennrich, 2019).

    Args:
        x: (..., columns), float64, float32, bfloat16 or float16; any strides.
        weight: (columns,), dtype of x.
        eps: added to the mean square.
        residual: shape and dtype of x; added to x first, the sum rounded to x's dtype.
        weight_offset: added to the weight; 1.0 for Gemma's norms.

    Returns:
        y, or (y, h) if a residual was given. Sums are kept in float32 (float64 for float64).

    Raises:
        ValueError: shapes do not fit. TypeError: dtypes do not fit.
    """
    if not _library.runs_kernels(x, cuda=x.is_cuda and _fits_cuda(x)):
        _check(x, weight, residual)
        return rms_norm_reference(x, weight, eps, residual=residual, weight_offset=weight_offset)
    try:
        if residual is None:
            return _library.call(torch.ops.pyllm.rms_norm.default, x, weight, eps, weight_offset)[0]
        op = torch.ops.pyllm.add_rms_norm.default
        y, residual_out, _ = _library.call(op, x, residual, weight, eps, weight_offset)
        return y, residual_out
    except RuntimeError:
        _check(x, weight, residual)  # the kernel's shim checks the same: here only to say it in full
        raise


def rms_norm_reference(
    x: Tensor,
    weight: Tensor,
    eps: float = 1e-6,
    *,
    residual: Tensor | None = None,
    weight_offset: float = 0.0,
) -> Tensor | tuple[Tensor, Tensor]:
    """The same in plain PyTorch: the definition, and the fallback on devices without kernels."""
    h = x if residual is None else x + residual
    wide = h.to(torch.promote_types(h.dtype, torch.float32))
    normalized = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    y = (normalized * (weight.to(wide.dtype) + weight_offset)).to(x.dtype)
    return y if residual is None else (y, h)


def _fits_cuda(x: Tensor) -> bool:
    """True if a row fits into the registers of a block of the CUDA kernel's backward."""
    return x.dim() > 0 and x.shape[-1] <= 8192


def _check(x: Tensor, weight: Tensor, residual: Tensor | None) -> None:
    _library.check_dtype("rms_norm", "x", x)
    if x.dim() == 0 or weight.dim() != 1 or weight.shape[0] != x.shape[-1]:
        raise ValueError(
            f"rms_norm: weight must have shape (columns,) with columns = x.shape[-1], got weight {tuple(weight.shape)} "
            f"for x {tuple(x.shape)}"
        )
    if weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"rms_norm: weight must have the dtype of x, {x.dtype}, got {weight.dtype}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(
            f"rms_norm: residual must have the shape of x, {tuple(x.shape)}, got {tuple(residual.shape)}"
        )
    if residual is not None and residual.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"rms_norm: residual must have the dtype of x, {x.dtype}, got {residual.dtype}")


def _rstd_like(x: Tensor) -> Tensor:
    rows = math.prod(x.shape[:-1])  # Size.numel would fix a symbolic length
    return x.new_empty((rows,), dtype=torch.promote_types(x.dtype, torch.float32))


@_library.register_fake("rms_norm")
def _(x: Tensor, weight: Tensor, eps: float, weight_offset: float) -> tuple[Tensor, Tensor]:
    _check(x, weight, None)
    return x.new_empty(x.shape), _rstd_like(x)


@_library.register_fake("add_rms_norm")
def _(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, weight_offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, weight, residual)
    return x.new_empty(x.shape), x.new_empty(x.shape), _rstd_like(x)


@_library.register_fake("rms_norm_backward")
def _(
    grad_y: Tensor,
    grad_residual_out: Tensor | None,
    h: Tensor,
    weight: Tensor,
    rstd: Tensor,
    weight_offset: float,
) -> tuple[Tensor, Tensor]:
    return h.new_empty(h.shape), weight.new_empty(weight.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, ctx.weight_offset = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, output[1])


def _backward(ctx: Any, grad_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, rstd = ctx.saved_tensors
    grad_x, grad_weight = torch.ops.pyllm.rms_norm_backward.default(
        grad_y, None, x, weight, rstd, ctx.weight_offset
    )
    return grad_x, grad_weight, None, None


def _setup_add(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, _, weight, _, ctx.weight_offset = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(output[1], weight, output[2])


def _backward_add(
    ctx: Any, grad_y: Tensor, grad_residual_out: Tensor, _: Tensor
) -> tuple[Tensor | None, ...]:
    h, weight, rstd = ctx.saved_tensors
    grad_x, grad_weight = torch.ops.pyllm.rms_norm_backward.default(
        grad_y, grad_residual_out, h, weight, rstd, ctx.weight_offset
    )
    return grad_x, grad_x, grad_weight, None, None


_library.register_autograd("rms_norm", _backward, _setup)
_library.register_autograd("add_rms_norm", _backward_add, _setup_add)
_library.register_autocast("rms_norm", lower=False)
_library.register_autocast("add_rms_norm", lower=False)
