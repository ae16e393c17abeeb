"""Gradient clipping by global norm, the same bits at any thread count."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from pyllm.ops.gradient_norm import gradient_norm


def clip_coefficient(norm: float, max_norm: float) -> float:
    """What gradients of 2-norm `norm` are multiplied with so that it is at most `max_norm`; at most 1.

    Give it to `AdamW.step(grad_scale=...)` to clip without a pass over the gradients.

    Raises:
        ValueError: max_norm is NaN or negative.
    """
    if math.isnan(max_norm) or max_norm < 0.0:
        raise ValueError(f"clip_coefficient: max_norm must be >= 0, got {max_norm}")
    return min(1.0, max_norm / (norm + 1e-6))


@torch.no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, *, error_if_nonfinite: bool = False
) -> Tensor:
    """Scales the gradients in place so that their global 2-norm is at most `max_norm`; as torch's of that name.

    Args:
        parameters: those without a gradient are passed over.
        max_norm: >= 0; infinity only measures.
        error_if_nonfinite: refuse a norm that is NaN or infinite instead of scaling by it.

    Returns:
        () the norm before scaling, float32 (float64 for float64 gradients).

    Raises:
        ValueError: max_norm is NaN or negative. RuntimeError: the norm is not finite and that was to be refused.
    """
    if math.isnan(max_norm) or max_norm < 0.0:
        raise ValueError(f"clip_grad_norm_: max_norm must be >= 0, got {max_norm}")
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = gradient_norm(grads)
    value = norm.item()
    if error_if_nonfinite and not math.isfinite(value):
        raise RuntimeError(f"clip_grad_norm_: the gradients' norm is {value}")
    coefficient = clip_coefficient(value, max_norm)
    if coefficient != 1.0:
        for grad in grads:
            grad.mul_(coefficient)
    return norm
