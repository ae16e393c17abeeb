"""Linear layer: y = x @ weight.T + bias, with float32 accumulation and bits that do not depend on the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyllm.ops import _library
from pyllm.ops.packed_weights import packed_weight


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
    if out_dtype is None and _library.runs_at_once(x):
        try:
            return _eager_product(x, weight, bias, False, keep=True)
        except (RuntimeError, IndexError):
            _check(
                x, weight, bias, out_dtype
            )  # the kernel's shim checks the same: here only to say it in full
            raise
    _check(x, weight, bias, out_dtype)
    if not _library.has_kernels(x):
        return linear_reference(x, weight, bias, out_dtype=out_dtype)
    return _product(x, weight, bias, out_dtype is not None, keep=True)


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


@_library.register_fake("linear_pack")
def _(weight: Tensor) -> Tensor:
    size = torch.library.get_ctx().new_dynamic_size()
    return weight.new_empty((size,), dtype=torch.float32)


@_library.register_fake("linear_packed")
def _(x: Tensor, weight: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, bool], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def grad_input(grad_y: Tensor, weight: Tensor) -> Tensor:
    """Gradient of `linear`'s x: grad_y (..., out), weight (out, in) of its dtype -> (..., in)."""
    if _library.plain_eager() and not weight.requires_grad and not torch.is_grad_enabled():
        packed = packed_weight(grad_y, weight, transposed=True)
        if packed is not None:
            return _below(grad_y, weight.t(), None, False, packed)
    return _product(grad_y, weight.t())


def grad_weight(grad_y: Tensor, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Gradient of `linear`'s weight: grad_y (..., out), x (..., in) -> (out, in) in `dtype`, that of x or float32."""
    columns, rows = grad_y.reshape(-1, grad_y.shape[-1]).t(), x.reshape(-1, x.shape[-1]).t()
    float32_out = dtype is torch.float32 and x.dtype is not torch.float32
    return _product(columns, rows, None, float32_out)


def grad_bias(grad_y: Tensor) -> Tensor:
    """Gradient of `linear`'s bias: grad_y (..., out) -> (out,)."""
    # Tokens are summed by a product with ones: torch.sum's order depends on the number of threads.
    columns = grad_y.reshape(-1, grad_y.shape[-1]).t()
    return _product(columns.new_ones((1, columns.shape[1])), columns)[0]


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    """All three gradients are products of the same op, which reads transposed operands in place."""
    x, weight = ctx.saved_tensors
    grad_y = grad_y.to(x.dtype)
    wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    return (
        grad_input(grad_y, weight) if wants_x else None,
        grad_weight(grad_y, x) if wants_weight else None,
        grad_bias(grad_y) if wants_bias else None,
        None,
    )


class _Linear(torch.autograd.Function):
    """The op's autograd once more, for eager calls: the registered one costs several times as much per call."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, float32_out: bool, keep: bool
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        packed = packed_weight(x, weight) if keep and not weight.requires_grad else None
        return _below(x, weight, bias, float32_out, packed)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return *_backward(ctx, grad_y), None


def _below(
    x: Tensor, weight: Tensor, bias: Tensor | None, float32_out: bool, packed: Tensor | None
) -> Tensor:
    if packed is None or float32_out:
        return _library.call_below_autograd(_op, x, weight, bias, float32_out)
    return _library.call_below_autograd(torch.ops.pyllm.linear_packed.default, x, weight, packed, bias)


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, float32_out: bool = False, keep: bool = False
) -> Tensor:
    """The op. `keep`: weight may be a layer's, worth keeping packed."""
    if not _library.plain_eager():
        return _op(x, weight, bias, float32_out)
    return _eager_product(x, weight, bias, float32_out, keep)


def _eager_product(x: Tensor, weight: Tensor, bias: Tensor | None, float32_out: bool, keep: bool) -> Tensor:
    if torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    ):
        return _Linear.apply(x, weight, bias, float32_out, keep)
    return _below(x, weight, bias, float32_out, packed_weight(x, weight) if keep else None)


_op: Any = torch.ops.pyllm.linear.default if _library.LOADED else None
_library.register_autograd("linear", _backward, _setup)
_library.register_autocast("linear", lower=True)
