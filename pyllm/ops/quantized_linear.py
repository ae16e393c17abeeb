"""Linear layer over a quantized weight, computed from its codes: y = x @ weight.T + bias."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyllm.ops import _library
from pyllm.ops.quantized_tensor import QuantizedTensor


def quantized_linear(
    x: Tensor, weight: QuantizedTensor, bias: Tensor | None = None, *, activation: str | None = None
) -> Tensor:
    """y = x @ weight.T + bias, the weight read as it is stored.

    Activations keep their dtype: codes are multiplied by them in float32, block by block, and each block's sum by its
    scale. A row's bits do not depend on the other rows. The weight is frozen; x and bias have gradients.

    Args:
        x: (..., in), float64, float32, bfloat16 or float16; any strides.
        weight: (out, in), see `QuantizedTensor`.
        bias: (out,), dtype of x.
        activation: None, or "int8": x is rounded to signed bytes with a scale for each 32 inputs of a row, or one a row
            where the weight has one scale per output (W8A8), and products are integers. Faster for many rows, and less
            exact; formats of integers only. Gradients are those of the layer without rounding.

    Returns:
        (..., out), dtype of x; sums are kept in float32, bias included, and rounded once.

    Raises:
        ValueError: shapes do not fit, an unknown activation, a format without integers. TypeError: dtypes do not fit.
    """
    _check(x, weight, bias, activation)
    if not _library.has_kernels(x):
        if activation is not None:
            raise RuntimeError(f"quantized_linear: activation={activation!r} needs the compiled operators")
        return quantized_linear_reference(x, weight, bias)
    if weight.permutation is not None:
        x = x.index_select(-1, weight.permutation)
    op = _op if activation is None else torch.ops.pyllm.quantized_linear_int8.default
    y: Tensor = _library.call(op, x, weight.data, bias, weight.format, weight.shape[0])
    return y


def quantized_linear_reference(x: Tensor, weight: QuantizedTensor, bias: Tensor | None = None) -> Tensor:
    """The same in plain PyTorch over the dequantized weight: the definition, and the fallback on other devices."""
    return torch.nn.functional.linear(x, weight.dequantize(x.dtype), bias)


def _check(x: Tensor, weight: QuantizedTensor, bias: Tensor | None, activation: str | None) -> None:
    _library.check_dtype("quantized_linear", "x", x)
    if not isinstance(weight, QuantizedTensor):
        raise TypeError(f"quantized_linear: weight must be a QuantizedTensor, got {type(weight).__name__}")
    if activation not in (None, "int8"):
        raise ValueError(f"quantized_linear: activation must be None or 'int8', got {activation!r}")
    if activation and weight.format.startswith(("nf4", "fp8")):
        raise ValueError(
            f"quantized_linear: activation='int8' needs a format of integers, got {weight.format}"
        )
    if x.dim() == 0 or weight.shape[1] != x.shape[-1]:
        raise ValueError(
            f"quantized_linear: weight must have shape (out, in) with in = x.shape[-1], got weight "
            f"{tuple(weight.shape)} for x {tuple(x.shape)}"
        )
    if bias is not None and bias.shape != (weight.shape[0],):
        raise ValueError(
            f"quantized_linear: bias must have shape (out,) = ({weight.shape[0]},), got {tuple(bias.shape)}"
        )
    if bias is not None and bias.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"quantized_linear: bias must have the dtype of x, {x.dtype}, got {bias.dtype}")


@_library.register_fake("quantized_linear")
@_library.register_fake("quantized_linear_int8")
def _(x: Tensor, data: Tensor, bias: Tensor | None, format: str, outputs: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], outputs))


@_library.register_fake("quantized_linear_grad")
def _(grad_y: Tensor, data: Tensor, format: str, inputs: int) -> Tensor:
    return grad_y.new_empty((*grad_y.shape[:-1], inputs))


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, str, int], output: Tensor) -> None:
    x, data, _, ctx.format, _ = inputs
    ctx.inputs = x.shape[-1]
    ctx.save_for_backward(data)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    from pyllm.ops.linear import grad_bias

    (data,) = ctx.saved_tensors
    wants_x, _, wants_bias = ctx.needs_input_grad[:3]
    grad_x = torch.ops.pyllm.quantized_linear_grad(grad_y, data, ctx.format, ctx.inputs) if wants_x else None
    return grad_x, None, grad_bias(grad_y) if wants_bias else None, None, None


def _setup_grad(ctx: Any, inputs: tuple[Tensor, Tensor, str, int], output: Tensor) -> None:
    grad_y, data, ctx.format, _ = inputs
    ctx.outputs = grad_y.shape[-1]
    ctx.save_for_backward(data)


def _backward_of_grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """grad_x is linear in grad_y: its gradient is the layer itself."""
    (data,) = ctx.saved_tensors
    return torch.ops.pyllm.quantized_linear(grad, data, None, ctx.format, ctx.outputs), None, None, None


_op: Any = torch.ops.pyllm.quantized_linear.default if _library.LOADED else None
_library.register_autograd("quantized_linear", _backward, _setup)
_library.register_autograd("quantized_linear_int8", _backward, _setup)
_library.register_autograd("quantized_linear_grad", _backward_of_grad, _setup_grad)
_library.register_autocast("quantized_linear", lower=True)
_library.register_autocast("quantized_linear_int8", lower=True)
