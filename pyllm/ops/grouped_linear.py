"""One linear layer per expert over rows sorted by expert: dense weights or quantized ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyllm.ops import _library
from pyllm.ops.linear import linear
from pyllm.ops.quantized_linear import quantized_linear
from pyllm.ops.quantized_tensor import QuantizedTensor


def grouped_linear(x: Tensor, weights: Tensor | Sequence[QuantizedTensor], offsets: Tensor) -> Tensor:
    """y[i] = weights[e] @ x[i] for the rows i of expert e, offsets[e] <= i < offsets[e + 1].

    A row has the bits that `linear` or `quantized_linear` gives it alone, whoever else came to the expert. All experts
    are one parallel loop. The dense gradient of an expert without rows is zero.

    Args:
        x: (tokens, in), rows sorted by expert; float64, float32, bfloat16 or float16.
        weights: (experts, out, in) of x's dtype, or a sequence of quantized weights (out, in).
        offsets: (experts + 1,) integers on the CPU, ascending from 0 to tokens; experts without rows are welcome.

    Returns:
        (tokens, out), dtype of x. Gradients flow to x and to dense weights.

    Raises:
        ValueError: shapes or offsets do not fit. TypeError: dtypes do not fit.
    """
    _check(x, weights, offsets)
    quantized = not isinstance(weights, Tensor)
    if not _library.has_kernels(x) or (
        quantized and any(weight.permutation is not None for weight in weights)
    ):
        return grouped_linear_reference(x, weights, offsets)
    offsets = offsets.to(torch.int64).contiguous()
    if isinstance(weights, Tensor):
        y: Tensor = _library.call(_op, x, weights, offsets)
    else:
        formats = [weight.format for weight in weights]
        data = [weight.data for weight in weights]
        y = _library.call(_quantized_op, x, data, offsets, formats, weights[0].shape[0])
    return y


def grouped_linear_reference(
    x: Tensor, weights: Tensor | Sequence[QuantizedTensor], offsets: Tensor
) -> Tensor:
    """The same as one call of `linear` or `quantized_linear` per expert: the definition, and what runs where the
    kernels do not: on other devices, and where weights have permuted columns."""
    bounds: list[int] = offsets.tolist()
    parts = [
        linear(x[first:end], weight) if isinstance(weight, Tensor) else quantized_linear(x[first:end], weight)
        for weight, first, end in zip(weights, bounds, bounds[1:], strict=False)
        if end > first
    ]
    return torch.cat(parts) if parts else x.new_empty((0, weights[0].shape[0]))


def _check(x: Tensor, weights: Tensor | Sequence[QuantizedTensor], offsets: Tensor) -> None:
    _library.check_dtype("grouped_linear", "x", x)
    if x.dim() != 2:
        raise ValueError(f"grouped_linear: x must be (tokens, in), got {tuple(x.shape)}")
    experts = len(weights)
    if experts == 0 or offsets.shape != (experts + 1,) or offsets.is_floating_point():
        raise ValueError(
            f"grouped_linear: offsets must be {experts + 1} integers for {experts} experts, at least one, "
            f"got {tuple(offsets.shape)} of {offsets.dtype}"
        )
    if not torch.compiler.is_compiling():  # a traced call leaves this to the kernel
        bounds: list[int] = offsets.tolist()
        if bounds[0] != 0 or bounds[-1] != x.shape[0] or sorted(bounds) != bounds:
            raise ValueError(f"grouped_linear: offsets must ascend from 0 to {x.shape[0]}, got {bounds}")
    shapes = {weights.shape[1:]} if isinstance(weights, Tensor) else {weight.shape for weight in weights}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2 or shape[1] != x.shape[1]:
        raise ValueError(
            f"grouped_linear: weights must be matrices (out, in) of one shape with in = {x.shape[1]}"
        )
    if torch.is_autocast_enabled(x.device.type) or not isinstance(weights, Tensor):
        return
    if weights.dtype != x.dtype:
        raise TypeError(f"grouped_linear: weights must have the dtype of x, {x.dtype}, got {weights.dtype}")


@_library.register_fake("grouped_linear")
def _(x: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], weights.shape[1]))


@_library.register_fake("grouped_linear_grad_weight")
def _(grad_y: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    return x.new_empty((offsets.shape[0] - 1, grad_y.shape[1], x.shape[1]))


@_library.register_fake("grouped_quantized_linear")
@_library.register_fake("grouped_quantized_linear_grad")
def _(left: Tensor, data: list[Tensor], offsets: Tensor, formats: list[str], size: int) -> Tensor:
    return left.new_empty((left.shape[0], size))


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    x, weights, offsets = ctx.saved_tensors
    wants_x, wants_weights = ctx.needs_input_grad[:2]
    return (
        torch.ops.pyllm.grouped_linear(grad_y, weights.transpose(1, 2), offsets) if wants_x else None,
        torch.ops.pyllm.grouped_linear_grad_weight(grad_y, x, offsets) if wants_weights else None,
        None,
    )


def _backward_of_grad_weight(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """grad (experts, out, in); the weights' gradient is linear in both operands."""
    grad_y, x, offsets = ctx.saved_tensors
    return (
        torch.ops.pyllm.grouped_linear(x, grad, offsets),
        torch.ops.pyllm.grouped_linear(grad_y, grad.transpose(1, 2), offsets),
        None,
    )


def _setup_quantized(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    left, data, offsets, ctx.formats, _ = inputs
    ctx.size = left.shape[1]
    ctx.save_for_backward(offsets, *data)


def _backward_quantized(name: str) -> Any:
    """The gradient of x is one op, of which the forward is the gradient: both are linear."""

    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        offsets, *data = ctx.saved_tensors
        op = getattr(torch.ops.pyllm, name)
        return op(grad, data, offsets, ctx.formats, ctx.size), [None] * len(data), None, None, None

    return backward


_op: Any = torch.ops.pyllm.grouped_linear.default if _library.LOADED else None
_quantized_op: Any = torch.ops.pyllm.grouped_quantized_linear.default if _library.LOADED else None
_library.register_autograd("grouped_linear", _backward, _setup)
_library.register_autograd("grouped_linear_grad_weight", _backward_of_grad_weight, _setup)
_library.register_autograd(
    "grouped_quantized_linear", _backward_quantized("grouped_quantized_linear_grad"), _setup_quantized
)
_library.register_autograd(
    "grouped_quantized_linear_grad", _backward_quantized("grouped_quantized_linear"), _setup_quantized
)
_library.register_autocast("grouped_linear", lower=True)
_library.register_autocast("grouped_quantized_linear", lower=True)
