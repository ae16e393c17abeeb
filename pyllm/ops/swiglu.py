"""Gated linear units' elementwise half, activation(gate) * up (Shazeer, 2020), and plain activations."""

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
    if not _library.runs_kernels(gate, cuda=True):
        _check(gate, up, activation)
        return glu_reference(gate, up, activation)
    try:
        return _library.call(torch.ops.pyllm.glu.default, gate, up, activation)
    except RuntimeError:
        _check(gate, up, activation)  # the kernel's shim checks the same: here only to say it in full
        raise


def activate(x: Tensor, activation: str) -> Tensor:
    """activation(x), elementwise: the MLP without a gate, as in GPT-2.

    Args:
        x: any shape and strides, float64, float32, bfloat16 or float16.
        activation: as in `glu`.

    Returns:
        Shape and dtype of x, contiguous; computed in float32 (float64 for float64) and rounded once.

    Raises:
        ValueError: the activation is unknown. TypeError: the dtype is none of the above.
    """
    if not _library.runs_kernels(x, cuda=True):
        _check_activation("activate", "x", x, activation)
        return activate_reference(x, activation)
    try:
        return _library.call(torch.ops.pyllm.activate.default, x, activation)
    except RuntimeError:
        _check_activation("activate", "x", x, activation)
        raise


def glu_reference(gate: Tensor, up: Tensor, activation: str = "silu") -> Tensor:
    """The same in plain PyTorch: the definition, and the fallback on devices without kernels."""
    wide = _widened(gate)
    return (activate_reference(wide, activation) * up.to(wide.dtype)).to(gate.dtype)


def activate_reference(x: Tensor, activation: str) -> Tensor:
    """The same in plain PyTorch."""
    wide = _widened(x)
    if activation == "silu":
        return torch.nn.functional.silu(wide).to(x.dtype)
    approximate = "none" if activation == "gelu" else "tanh"
    return torch.nn.functional.gelu(wide, approximate=approximate).to(x.dtype)


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_activation(op: str, argument: str, x: Tensor, activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"{op}: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    _library.check_dtype(op, argument, x)


def _check(gate: Tensor, up: Tensor, activation: str) -> None:
    _check_activation("glu", "gate", gate, activation)
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


@_library.register_fake("activate")
def _(x: Tensor, activation: str) -> Tensor:
    _check_activation("activate", "x", x, activation)
    return x.new_empty(x.shape)


@_library.register_fake("activate_backward")
def _(grad_out: Tensor, x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gate, up, ctx.activation = inputs
    ctx.save_for_backward(gate, up)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    grad_gate, grad_up = torch.ops.pyllm.glu_backward.default(grad_out, *ctx.saved_tensors, ctx.activation)
    return grad_gate, grad_up, None


_library.register_autograd("glu", _backward, _setup)
_library.register_autocast("glu", lower=False)


def _setup_activate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.activation = inputs
    ctx.save_for_backward(x)


def _backward_activate(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    grad_x, _ = torch.ops.pyllm.activate_backward.default(grad_out, *ctx.saved_tensors, ctx.activation)
    return grad_x, None


_library.register_autograd("activate", _backward_activate, _setup_activate)
_library.register_autocast("activate", lower=False)
