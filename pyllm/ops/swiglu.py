"""Gated linear units' elementwise half: activation(gate) * up (Shazeer, 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyllm.ops import _library

ACTIVATIONS = ("silu", "gelu", "gelu_tanh")


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, elementwise; the same as `glu(gate, up, "silu")`.

    Args:
        gate: any shape and strides, float64, float32, bfloat16 or float16.
        up: shape and dtype of gate.

    Returns:
        Shape and dtype of gate, contiguous; computed in float32 (float64 for float64) and rounded once.

    Raises:
        ValueError: shapes differ. TypeError: dtypes do not fit.
    """
    return glu(gate, up, "silu")


def glu(gate: Tensor, up: Tensor, activation: str = "silu") -> Tensor:
    """activation(gate) * up, elementwise (Shazeer, "GLU Variants Improve Transformer", 2020).

    Args:
        gate: any shape and strides, float64, float32, bfloat16 or float16.
        up: shape and dtype of gate.
        activation: "silu" (x * sigmoid(x)), "gelu" (exact, by erf) or "gelu_tanh" (its tanh approximation).

    Returns:
        Shape and dtype of gate, contiguous; computed in float32 (float64 for float64) and rounded once.

    Raises:
        ValueError: shapes differ, or the activation is unknown. TypeError: dtypes do not fit.
    """
    if not _library.runs_kernels(gate):
        _check(gate, up, activation)
        return glu_reference(gate, up, activation)
    try:
        return _library.call(torch.ops.pyllm.glu.default, gate, up, activation)
    except RuntimeError:
        _check(gate, up, activation)  # the kernel's shim checks the same: here only to say it in full
        raise


def glu_reference(gate: Tensor, up: Tensor, activation: str = "silu") -> Tensor:
    """The same in plain PyTorch: the definition, and the fallback on devices without kernels."""
    wide = gate.to(torch.promote_types(gate.dtype, torch.float32))
    if activation == "silu":
        activated = torch.nn.functional.silu(wide)
    else:
        activated = torch.nn.functional.gelu(wide, approximate="none" if activation == "gelu" else "tanh")
    return (activated * up.to(wide.dtype)).to(gate.dtype)


def _check(gate: Tensor, up: Tensor, activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"glu: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    _library.check_dtype("glu", "gate", gate)
    if up.shape != gate.shape:
        raise ValueError(f"glu: up must have the shape of gate, {tuple(gate.shape)}, got {tuple(up.shape)}")
    if up.dtype != gate.dtype and not torch.is_autocast_enabled(gate.device.type):
        raise TypeError(f"glu: up must have the dtype of gate, {gate.dtype}, got {up.dtype}")


@_library.register_fake("glu")
def _(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    _check(gate, up, activation)
    return gate.new_empty(gate.shape)


@_library.register_fake("glu_backward")
def _(grad_out: Tensor, gate: Tensor, up: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), gate.new_empty(gate.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gate, up, ctx.activation = inputs
    ctx.save_for_backward(gate, up)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    grad_gate, grad_up = torch.ops.pyllm.glu_backward.default(grad_out, *ctx.saved_tensors, ctx.activation)
    return grad_gate, grad_up, None


_library.register_autograd("glu", _backward, _setup)
_library.register_autocast("glu", lower=False)
