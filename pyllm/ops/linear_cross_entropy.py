"""Output projection and cross entropy in one op: the logits are never held as a whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from pyllm.ops import _library

Reduction = Literal["mean", "sum", "none"]
_REDUCTIONS = ("none", "sum", "mean")


@overload
def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = ...,
    ignore_index: int = ...,
    label_smoothing: float = ...,
    z_loss: float = ...,
    softcap: float | None = ...,
    token_weight: Tensor | None = ...,
    temperature: float = ...,
    reduction: Reduction = ...,
    return_lse: Literal[False] = ...,
) -> Tensor: ...
@overload
def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = ...,
    ignore_index: int = ...,
    label_smoothing: float = ...,
    z_loss: float = ...,
    softcap: float | None = ...,
    token_weight: Tensor | None = ...,
    temperature: float = ...,
    reduction: Reduction = ...,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    token_weight: Tensor | None = None,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Cross entropy of `target` under softmax(logits), where logits = x @ weight.T + bias are never held whole.

    Per token, with l = softcap * tanh(logits / softcap) (if a softcap is given) / temperature and lse = logsumexp(l):

        loss = token_weight * ((1 - label_smoothing) * (lse - l[target]) + label_smoothing * (lse - mean(l))
                               + z_loss * lse^2)

    Args:
        x: (..., hidden), float64, float32, bfloat16 or float16; any strides.
        weight: (vocab, hidden), dtype of x.
        target: (...), int64 class indices in [0, vocab), or `ignore_index`.
        bias: (vocab,), dtype of x.
        ignore_index: target value whose tokens count for nothing.
        label_smoothing: in [0, 1]; mass spread evenly over the vocabulary (Szegedy et al., 2016).
        z_loss: >= 0; weight of lse^2, which keeps logits small (PaLM; Chowdhery et al., 2022).
        softcap: > 0; bound on the logits (Gemma 2).
        token_weight: (...), floating point, a constant (no gradient); tokens of weight 0 count for nothing.
        temperature: > 0; divides the logits.
        reduction: "none", "sum", or "mean", which divides by the sum of token_weight over counted tokens (their number
            without token_weight). With nothing to count, 0 with zero gradients.
        return_lse: also return lse. It is then computed for every token, and gradients flow through it.

    Returns:
        loss, or (loss, lse): float32 (float64 for float64 inputs); loss (...) for "none", otherwise (); lse (...),
        natural logarithm. Under autocast x, weight and bias are cast to the autocast dtype first.

    Raises:
        ValueError: shapes or options do not fit. TypeError: dtypes do not fit.
        IndexError: a target is out of range.
    """
    _check(x, weight, target, bias, token_weight)
    _check_options(label_smoothing, z_loss, softcap, temperature, reduction)
    if not _library.has_kernels(x):
        if target.device.type == "cpu" and not torch.compiler.is_compiling():
            _check_range(target, weight.shape[0], ignore_index)
        return linear_cross_entropy_reference(
            x,
            weight,
            target,
            bias=bias,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            softcap=softcap,
            token_weight=token_weight,
            temperature=temperature,
            reduction=reduction,
            return_lse=return_lse,
        )
    # float64 is what autocast leaves alone.
    weights = None if token_weight is None else token_weight.to(torch.float64)
    tensors = (x, weight, target, bias, weights)
    options = (
        ignore_index,
        label_smoothing,
        z_loss,
        softcap or 0.0,
        temperature,
        _REDUCTIONS.index(reduction),
    )
    wanted = [torch.is_grad_enabled() and t is not None and t.requires_grad for t in (x, weight, bias)]
    if any(wanted) and reduction != "none" and not return_lse and _computes_in_float32(x):
        loss: Tensor = torch.ops.pyllm.linear_cross_entropy_fused.default(*tensors, *options, *wanted)[0]
        return loss
    loss, lse = torch.ops.pyllm.linear_cross_entropy.default(*tensors, *options, return_lse)
    return (loss, lse) if return_lse else loss


def _computes_in_float32(x: Tensor) -> bool:
    """Gradients are formed during forward for float32 alone: a float16 one would underflow before it is scaled, and
    16-bit formats would need a float32 gradient of the whole weight."""
    return x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)


def linear_cross_entropy_reference(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    token_weight: Tensor | None = None,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The same in plain PyTorch: the definition, and the fallback on devices without kernels (holds the logits)."""
    logits = F.linear(x, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits / temperature
    lse = torch.logsumexp(logits, -1)
    counted = target != ignore_index
    weights = counted.to(lse.dtype)
    if token_weight is not None:
        counted = counted & (token_weight != 0)
        weights = torch.where(counted, token_weight.detach().to(lse.dtype), 0.0)
    log_probs = torch.log_softmax(logits, -1)
    chosen = log_probs.gather(-1, torch.where(counted, target, 0).unsqueeze(-1)).squeeze(-1)
    loss = -(1 - label_smoothing) * chosen + z_loss * lse.square()
    if label_smoothing:
        loss = loss - label_smoothing * log_probs.mean(-1)
    loss = torch.where(counted, loss, 0.0) * weights
    if reduction != "none":
        loss = loss.sum()
    if reduction == "mean":
        total = weights.sum()
        loss = loss / torch.where(total == 0, 1.0, total)
    return (loss, lse) if return_lse else loss


def _check(
    x: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, token_weight: Tensor | None
) -> None:
    _library.check_dtype("linear_cross_entropy", "x", x)
    if x.dim() == 0 or weight.dim() != 2 or weight.shape[1] != x.shape[-1]:
        raise ValueError(
            "linear_cross_entropy: weight must have shape (vocab, hidden) with hidden = x.shape[-1], got weight "
            f"{tuple(weight.shape)} for x {tuple(x.shape)}"
        )
    if weight.shape[0] == 0:
        raise ValueError("linear_cross_entropy: weight must have at least one row, got an empty vocabulary")
    if target.dtype != torch.int64:
        raise TypeError(f"linear_cross_entropy: target must be int64, got {target.dtype}")
    if target.shape != x.shape[:-1]:
        raise ValueError(
            f"linear_cross_entropy: target must have shape {tuple(x.shape[:-1])}, x's without the last dimension, "
            f"got {tuple(target.shape)}"
        )
    mixed = torch.is_autocast_enabled(x.device.type)
    if weight.dtype != x.dtype and not mixed:
        raise TypeError(
            f"linear_cross_entropy: weight must have the dtype of x, {x.dtype}, got {weight.dtype}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"linear_cross_entropy: bias must have shape {tuple(weight.shape[:1])}, got {tuple(bias.shape)}"
        )
    if bias is not None and bias.dtype != x.dtype and not mixed:
        raise TypeError(f"linear_cross_entropy: bias must have the dtype of x, {x.dtype}, got {bias.dtype}")
    if token_weight is not None:
        _check_token_weight(token_weight, target)


def _check_token_weight(token_weight: Tensor, target: Tensor) -> None:
    if token_weight.shape != target.shape:
        raise ValueError(
            f"linear_cross_entropy: token_weight must have the shape of target, {tuple(target.shape)}, got "
            f"{tuple(token_weight.shape)}"
        )
    if not token_weight.is_floating_point():
        raise TypeError(
            f"linear_cross_entropy: token_weight must be floating point, got {token_weight.dtype}"
        )
    if token_weight.requires_grad:
        raise ValueError(
            "linear_cross_entropy: token_weight must not require a gradient; for weights that are learned, multiply "
            'the losses of reduction="none"'
        )


def _check_range(target: Tensor, vocab: int, ignore_index: int) -> None:
    bad = target[((target < 0) | (target >= vocab)) & (target != ignore_index)]
    if bad.numel():
        raise IndexError(
            f"linear_cross_entropy: target must be in [0, {vocab}) or ignore_index, got {bad[0].item()}"
        )


def _check_options(
    label_smoothing: float, z_loss: float, softcap: float | None, temperature: float, reduction: str
) -> None:
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"linear_cross_entropy: label_smoothing must be in [0, 1], got {label_smoothing}")
    if not 0.0 <= z_loss < math.inf:
        raise ValueError(f"linear_cross_entropy: z_loss must be finite and >= 0, got {z_loss}")
    if softcap is not None and not 0.0 < softcap < math.inf:
        raise ValueError(f"linear_cross_entropy: softcap must be finite and > 0, got {softcap}")
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"linear_cross_entropy: temperature must be finite and > 0, got {temperature}")
    if reduction not in _REDUCTIONS:
        raise ValueError(
            f'linear_cross_entropy: reduction must be "mean", "sum" or "none", got {reduction!r}'
        )


def _outputs_like(x: Tensor, target: Tensor, reduction: int) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)
    loss_shape = target.shape if _REDUCTIONS[reduction] == "none" else ()
    return x.new_empty(loss_shape, dtype=wide), x.new_empty(target.shape, dtype=wide)


@_library.register_fake("linear_cross_entropy")
def _(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    token_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float,
    temperature: float,
    reduction: int,
    lse_everywhere: bool,
) -> tuple[Tensor, Tensor]:
    return _outputs_like(x, target, reduction)


def _gradients_like(
    x: Tensor, weight: Tensor, wanted: Sequence[bool], wide_weight: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape if wanted[0] else (0,)),
        weight.new_empty(
            weight.shape if wanted[1] else (0,), dtype=torch.float32 if wide_weight else weight.dtype
        ),
        x.new_empty(weight.shape[:1] if wanted[2] else (0,)),
    )


@_library.register_fake("linear_cross_entropy_fused")
def _(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    token_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float,
    temperature: float,
    reduction: int,
    *wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (*_outputs_like(x, target, reduction), *_gradients_like(x, weight, wanted))


@_library.register_fake("linear_cross_entropy_backward")
def _(
    grad_loss: Tensor,
    grad_lse: Tensor | None,
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    token_weight: Tensor | None,
    lse: Tensor,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    softcap: float,
    temperature: float,
    reduction: int,
    wants_x: bool,
    wants_weight: bool,
    wants_bias: bool,
    wide_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients_like(x, weight, (wants_x, wants_weight, wants_bias), wide_weight)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, target, bias, token_weight, *ctx.options, ctx.lse_everywhere = inputs
    if not ctx.lse_everywhere:
        ctx.mark_non_differentiable(output[1])
    ctx.wide_weight = _wants_wide_gradient(weight)
    ctx.save_for_backward(x, weight, target, bias, token_weight, output[1])


def _wants_wide_gradient(weight: Tensor) -> bool:
    """True for a 16-bit parameter whose `grad_dtype` is float32."""
    return weight.is_leaf and weight.dtype.itemsize == 2 and weight.grad_dtype == torch.float32


def _backward(ctx: Any, grad_loss: Tensor, grad_lse: Tensor) -> tuple[Tensor | None, ...]:
    wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[3])
    grads = _gradients(ctx, grad_loss, grad_lse if ctx.lse_everywhere else None, wanted, ctx.wide_weight)
    grad_x, grad_weight, grad_bias = (grad if w else None for grad, w in zip(grads, wanted, strict=True))
    return (grad_x, grad_weight, None, grad_bias, *[None] * 8)


def _gradients(
    ctx: Any, grad_loss: Tensor, grad_lse: Tensor | None, wanted: Sequence[bool], wide_weight: bool = False
) -> Sequence[Tensor]:
    x, weight, target, bias, token_weight, lse = ctx.saved_tensors
    grads: Sequence[Tensor] = torch.ops.pyllm.linear_cross_entropy_backward.default(
        *(grad_loss, grad_lse, x, weight, target, bias, token_weight, lse), *ctx.options, *wanted, wide_weight
    )
    return grads


def _setup_fused(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, target, bias, token_weight, *rest = inputs
    ctx.options, ctx.wanted = rest[:-3], rest[-3:]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # or backward gets zeros of the weight's size for an output nobody sees
    ctx.save_for_backward(x, weight, target, bias, token_weight, output[1])
    ctx.gradients = output[2:]


def _backward_fused(ctx: Any, grad_loss: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    grads = _scaled_gradients(ctx, grad_loss)
    grad_x, grad_weight, grad_bias = (grad if w else None for grad, w in zip(grads, ctx.wanted, strict=True))
    return (grad_x, grad_weight, None, grad_bias, *[None] * 10)


def _scaled_gradients(ctx: Any, grad_loss: Tensor) -> Sequence[Tensor]:
    """What forward formed, times `grad_loss`. In place, as a copy would double what the op takes; so a second pass
    through a retained graph makes its gradients again."""
    if type(grad_loss) is not Tensor:  # a graph is being traced, and its compiler plans the memory
        return [grad * grad_loss for grad in ctx.gradients]
    formed, ctx.gradients = ctx.gradients, None
    scale = grad_loss.item()
    # Gradients that are zero because nothing counts stay so under an infinite or NaN scale.
    if formed is None or not math.isfinite(scale):
        return _gradients(ctx, grad_loss, None, ctx.wanted)
    return formed if scale == 1.0 else [grad.mul_(scale) for grad in formed]


_library.register_autograd("linear_cross_entropy", _backward, _setup)
_library.register_autograd("linear_cross_entropy_fused", _backward_fused, _setup_fused)
_library.register_autocast("linear_cross_entropy", lower=True)
