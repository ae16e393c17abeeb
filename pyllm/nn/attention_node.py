"""The first half of a decoder layer, norm(x + residual) -> self-attention, as one autograd node.

Kept for the backward, per token: the sum h (hidden), q and k as attention reads them (as projected where they
are normalized per head), v, attention's output and its log-sum-exp (one float32 per head). The normalized h,
which only weight gradients read, is made again. With `recompute` everything but h is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyllm.nn.attention import Attention, packed_positions
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
from pyllm.nn.rms_norm import RMSNorm
from pyllm.ops.linear import grad_bias, grad_weight


@dataclass(frozen=True)
class _Options:
    norm: Norm
    head_norm: Norm | None
    head_dim: int
    window: int | None
    scale: float | None
    softcap: float | None
    rope_interleaved: bool
    dtype: torch.dtype
    recompute: bool


class _Parameters(NamedTuple):
    norm_weight: Tensor
    norm_bias: Tensor | None
    q_weight: Tensor
    q_bias: Tensor | None
    k_weight: Tensor
    k_bias: Tensor | None
    v_weight: Tensor
    v_bias: Tensor | None
    o_weight: Tensor
    o_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None


class _Angles(NamedTuple):
    """Tables and positions of the rotation (cos None: none), the borders of packed documents, and prefixes."""

    cos: Tensor | None
    sin: Tensor | None
    position_ids: Tensor | None
    cu_seqlens: Tensor | None
    prefix_lengths: Tensor | None


def normed_attention(
    x: Tensor,
    residual: Tensor | None,
    norm: RMSNorm | LayerNorm,
    attention: Attention,
    cos: Tensor | None,
    sin: Tensor | None,
    position_ids: Tensor | None,
    cu_seqlens: Tensor | None,
    prefix_lengths: Tensor | None = None,
    *,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """(attention(norm(h)), h) with h = x + residual, or x: (batch, tokens, hidden) each; the rest as in
    `Attention.forward`. The bits are those of the modules in turn.
    """
    q_norm, k_norm = attention.q_norm, attention.k_norm
    options = _Options(
        Norm.of(norm, x.dtype),
        None if q_norm is None else Norm.of(q_norm, compute_dtype(x)),
        attention.head_dim,
        attention.window,
        attention.scale,
        attention.softcap,
        attention.rope_interleaved,
        compute_dtype(x),
        recompute,
    )
    parameters = _Parameters(
        norm.weight,
        norm.bias if isinstance(norm, LayerNorm) else None,
        attention.q_proj.weight,
        attention.q_proj.bias,
        attention.k_proj.weight,
        attention.k_proj.bias,
        attention.v_proj.weight,
        attention.v_proj.bias,
        attention.o_proj.weight,
        attention.o_proj.bias,
        None if q_norm is None else q_norm.weight,
        None if k_norm is None else k_norm.weight,
    )
    if cu_seqlens is not None:
        position_ids = packed_positions(x, position_ids)
    position_ids = None if position_ids is None else position_ids.long()
    if cos is not None and sin is not None:
        wide = torch.promote_types(x.dtype, torch.float32)
        cos, sin = cast(cos, wide), cast(sin, wide)
    angles = _Angles(cos, sin, position_ids, cu_seqlens, prefix_lengths)
    return _NormedAttention.apply(options, x, residual, *angles, *parameters)


class _NormedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: _Options, x: Tensor, residual: Tensor | None, *tensors: Any) -> Any:
        angles, p = _Angles(*tensors[:5]), _Parameters(*tensors[5:])
        with direct():
            y, h = options.norm.forward(x, residual, p.norm_weight, p.norm_bias)
            kept = _attend(cast(y, options.dtype), options, angles, p)
            out = project(_rows(kept[3], x), p.o_weight, p.o_bias)
        ctx.options = options
        ctx.save_for_backward(h, *((None,) * len(kept) if options.recompute else kept), *tensors)
        return out, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_h: Tensor | None) -> tuple[Tensor | None, ...]:
        options: _Options = ctx.options
        h, *rest = ctx.saved_tensors
        kept, angles, p = rest[:5], _Angles(*rest[5:10]), _Parameters(*rest[10:])
        with direct():
            y, statistics = options.norm.again(h, p.norm_weight, p.norm_bias)
            y = cast(y, options.dtype)
            if options.recompute:
                kept = list(_attend(y, options, angles, p))
            grad = cast(grad, options.dtype)
            o_grads = project_gradients(grad, _rows(kept[3], h), p.o_weight, p.o_bias)
            grad_out = _heads(project_back((grad, p.o_weight)), options, angles)
            head_grads, head_norm_grads = _attend_backward(grad_out, kept, options, angles, p)
            grad_y, qkv_grads = _project_backward(head_grads, y, p)
            grad_x, *norm_grads = options.norm.backward(
                cast(grad_y, h.dtype), grad_h, h, statistics, p.norm_weight, p.norm_bias
            )
        grad_residual = grad_x if ctx.needs_input_grad[2] else None
        parameter_grads = (*norm_grads, *qkv_grads, *o_grads, *head_norm_grads)
        return None, grad_x, grad_residual, *((None,) * len(angles)), *parameter_grads


def _heads(x: Tensor, options: _Options, angles: _Angles) -> Tensor:
    """(batch, tokens, heads * head_dim) -> (batch, heads, tokens, head_dim); packed documents are one long row."""
    x = x.unflatten(-1, (-1, options.head_dim))
    return (x if angles.cu_seqlens is None else x.flatten(0, 1)[None]).transpose(1, 2)


def _rows(x: Tensor, like: Tensor) -> Tensor:
    """(batch or 1, heads, tokens, head_dim) -> (batch, tokens, heads * head_dim), batch and tokens those of `like`."""
    return x.transpose(1, 2).reshape(*like.shape[:-1], -1)


def _rotate(
    q: Tensor, k: Tensor, options: _Options, angles: _Angles, *, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    if angles.cos is None:
        return q, k
    places = (angles.cos, angles.sin, angles.position_ids)
    return torch.ops.pyllm.rope.default(q, k, *places, options.rope_interleaved, inverse)


def _normed_heads(
    q: Tensor, k: Tensor, options: _Options, p: _Parameters
) -> tuple[Tensor, Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """q and k normalized per head where the model does so, and the statistics of that."""
    if options.head_norm is None or p.q_norm is None or p.k_norm is None:
        return q, k, (), ()
    q, q_statistics = options.head_norm.again(q, p.q_norm, None)
    k, k_statistics = options.head_norm.again(k, p.k_norm, None)
    return q, k, q_statistics, k_statistics


def _masks(options: _Options, angles: _Angles) -> tuple[Any, ...]:
    """The arguments of the attention operator behind q, k and v: causal, within the window and the document."""
    borders = angles.cu_seqlens
    tensors = (None, None, None, angles.prefix_lengths, None, borders, borders, None)
    return *tensors, True, options.scale, options.window, 0, options.softcap, 0.0


def _attend(y: Tensor, options: _Options, angles: _Angles, p: _Parameters) -> tuple[Tensor, ...]:
    """What is kept: q, k, v, attention's output and its log-sum-exp."""
    q, k, v = (
        _heads(project(y, weight, bias), options, angles)
        for weight, bias in ((p.q_weight, p.q_bias), (p.k_weight, p.k_bias), (p.v_weight, p.v_bias))
    )
    normed_q, normed_k, _, _ = _normed_heads(q, k, options, p)
    rotated_q, rotated_k = _rotate(normed_q, normed_k, options, angles)
    out, lse = torch.ops.pyllm.attention.default(rotated_q, rotated_k, v, *_masks(options, angles))
    if options.head_norm is None:
        q, k = rotated_q, rotated_k
    return q, k, v, out, lse


def _attend_backward(
    grad_out: Tensor, kept: Sequence[Tensor], options: _Options, angles: _Angles, p: _Parameters
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor | None, Tensor | None]]:
    """Gradients of the projected q, k and v, and of the norms' weights per head."""
    q, k, v, out, lse = kept
    rotated_q, rotated_k, q_statistics, k_statistics = _normed_heads(q, k, options, p)
    if options.head_norm is not None:
        rotated_q, rotated_k = _rotate(rotated_q, rotated_k, options, angles)
    grad_q, grad_k, grad_v, _, _ = torch.ops.pyllm.attention_backward.default(
        grad_out, None, out, lse, rotated_q, rotated_k, v, *_masks(options, angles), False
    )
    grad_q, grad_k = _rotate(grad_q, grad_k, options, angles, inverse=True)
    if options.head_norm is None or p.q_norm is None or p.k_norm is None:
        return (grad_q, grad_k, grad_v), (None, None)
    grad_q, grad_q_norm, _ = options.head_norm.backward(grad_q, None, q, q_statistics, p.q_norm, None)
    grad_k, grad_k_norm, _ = options.head_norm.backward(grad_k, None, k, k_statistics, p.k_norm, None)
    return (grad_q, grad_k, grad_v), (grad_q_norm, grad_k_norm)


def _project_backward(
    head_grads: Sequence[Tensor], y: Tensor, p: _Parameters
) -> tuple[Tensor, list[Tensor | None]]:
    """Gradient of y, and of q's, k's and v's weights and biases in turn: two products with the three side by side.

    Putting the gradients side by side is the pass over them that makes rows out of heads; it takes the place of the
    sum of three products.
    """
    grad = torch.cat([t.transpose(1, 2) for t in head_grads], 2).reshape(*y.shape[:-1], -1)
    weights, biases = (p.q_weight, p.k_weight, p.v_weight), (p.q_bias, p.k_bias, p.v_bias)
    sizes = [weight.shape[0] for weight in weights]
    grad_y = project_back((grad, torch.cat(weights)))
    weight_grads = bias_grads = (None, None, None)
    if any(weight.requires_grad for weight in weights):
        weight_grads = grad_weight(grad, y, weights[0].dtype).split(sizes)
    if any(bias is not None and bias.requires_grad for bias in biases):
        bias_grads = grad_bias(grad).split(sizes)
    pairs = zip(zip(weights, weight_grads, strict=True), zip(biases, bias_grads, strict=True), strict=True)
    wanted = (
        gradient if t is not None and t.requires_grad else None for pair in pairs for t, gradient in pair
    )
    return grad_y, list(wanted)
