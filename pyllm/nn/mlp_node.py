"""The second half of a decoder layer, norm(x + residual) -> MLP, as one autograd node.

Kept for the backward, per token, of the dtype of the products: the sum h (hidden) and the projections that the
activation reads (2 x intermediate gated, 1 x plain). The normalized h and the activation's product, which only
weight gradients read, are made again in the backward: elementwise work beside three matrix products. With
`recompute` the projections are made again too, and h alone is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyllm.nn.below_autograd import (
    Norm,
    cast,
    compute_dtype,
    direct,
    project,
    project_back,
    project_gradients,
)
from pyllm.nn.layer_norm import LayerNorm
from pyllm.nn.mlp import MLP, GatedMLP
from pyllm.nn.rms_norm import RMSNorm


@dataclass(frozen=True)
class _Options:
    norm: Norm
    activation: str
    dtype: torch.dtype
    recompute: bool


def normed_mlp(
    x: Tensor,
    residual: Tensor | None,
    norm: RMSNorm | LayerNorm,
    mlp: GatedMLP | MLP,
    *,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """(mlp(norm(h)), h) with h = x + residual, or x: (..., hidden) each. The bits are those of the modules in turn."""
    options = _Options(Norm.of(norm, x.dtype), mlp.activation, compute_dtype(x), recompute)
    gate = mlp.gate_proj if isinstance(mlp, GatedMLP) else None
    return _NormedMLP.apply(
        options,
        x,
        residual,
        norm.weight,
        norm.bias if isinstance(norm, LayerNorm) else None,
        None if gate is None else gate.weight,
        None if gate is None else gate.bias,
        mlp.up_proj.weight,
        mlp.up_proj.bias,
        mlp.down_proj.weight,
        mlp.down_proj.bias,
    )


class _NormedMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: _Options, x: Tensor, residual: Tensor | None, *parameters: Any) -> Any:
        norm_weight, norm_bias, gate_weight, gate_bias, up_weight, up_bias, down_weight, down_bias = (
            parameters
        )
        with direct():
            y, h = options.norm.forward(x, residual, norm_weight, norm_bias)
            y = cast(y, options.dtype)
            gate = None if gate_weight is None else project(y, gate_weight, gate_bias)
            up = project(y, up_weight, up_bias)
            out = project(_activate(gate, up, options.activation), down_weight, down_bias)
        ctx.options = options
        kept = (None, None) if options.recompute else (gate, up)
        ctx.save_for_backward(h, *kept, *parameters)
        return out, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor, grad_h: Tensor | None) -> tuple[Tensor | None, ...]:
        options: _Options = ctx.options
        h, gate, up, *parameters = ctx.saved_tensors
        norm_weight, norm_bias, gate_weight, gate_bias, up_weight, up_bias, down_weight, down_bias = (
            parameters
        )
        gate_grads: tuple[Tensor | None, Tensor | None] = (None, None)
        with direct():
            y, statistics = options.norm.again(h, norm_weight, norm_bias)
            y = cast(y, options.dtype)
            if options.recompute:
                gate = None if gate_weight is None else project(y, gate_weight, gate_bias)
                up = project(y, up_weight, up_bias)
            grad_out = cast(grad_out, options.dtype)
            grad_gate, grad_up, product = _activation_backward(
                project_back((grad_out, down_weight)), gate, up, options.activation
            )
            down_grads = project_gradients(grad_out, product, down_weight, down_bias)
            del product
            up_grads = project_gradients(grad_up, y, up_weight, up_bias)
            if grad_gate is None:
                grad_y = project_back((grad_up, up_weight))
            else:
                gate_grads = project_gradients(grad_gate, y, gate_weight, gate_bias)
                grad_y = project_back((grad_gate, gate_weight), (grad_up, up_weight))
            grad_x, *norm_grads = options.norm.backward(
                cast(grad_y, h.dtype), grad_h, h, statistics, norm_weight, norm_bias
            )
        grad_residual = grad_x if ctx.needs_input_grad[2] else None
        return None, grad_x, grad_residual, *norm_grads, *gate_grads, *up_grads, *down_grads


def _activate(gate: Tensor | None, up: Tensor, activation: str) -> Tensor:
    """activation(gate) * up, or activation(up) where there is no gate."""
    if gate is None:
        return torch.ops.pyllm.activate.default(up, activation)
    return torch.ops.pyllm.glu.default(gate, up, activation)


def _activation_backward(
    grad: Tensor, gate: Tensor | None, up: Tensor, activation: str
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of gate (None where there is none) and up, and what `_activate` gave, made again."""
    if gate is None:
        return None, *torch.ops.pyllm.activate_backward.default(grad, up, activation)
    grad_gate, grad_up = torch.ops.pyllm.glu_backward.default(grad, gate, up, activation)
    del grad  # the caller keeps none: at most three tensors of this size are alive
    return grad_gate, grad_up, _activate(gate, up, activation)
