"""One AdamW step of one tensor, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from pyllm.ops import _library


def adamw_step(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float = 1.0,
    master: Tensor | None = None,
) -> None:
    """AdamW (Loshchilov and Hutter, 2019) on one tensor, in place and in one pass.

        g = grad_scale * grad;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
        p = (1 - lr weight_decay) p - lr / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + eps)

    Args:
        param: any shape, contiguous; float64, float32, bfloat16 or float16. Written.
        grad: shape and dtype of param; not written.
        exp_avg, exp_avg_sq: m and v, shape of param, contiguous; float32 (float64 for float64). Written.
        lr, betas, eps, weight_decay: as torch.optim.AdamW; not checked here.
        step: number of this step, from 1.
        grad_scale: multiplies the gradient first: clipping without a pass of its own.
        master: float32 copy of a 16-bit param; then the step is made on it and param is its rounding. Written.

    Raises:
        ValueError: shapes do not fit, a tensor is not contiguous, or step < 1. TypeError: dtypes do not fit.
    """
    _check(param, grad, exp_avg, exp_avg_sq, step, master)
    if not _library.has_kernels(param):
        adamw_step_reference(
            param,
            grad,
            exp_avg,
            exp_avg_sq,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            step=step,
            grad_scale=grad_scale,
            master=master,
        )
        return
    with torch.no_grad():
        torch.ops.pyllm.adamw_step_.default(
            param, grad, exp_avg, exp_avg_sq, master, lr, *betas, eps, weight_decay, step, grad_scale
        )


@torch.no_grad()
def adamw_step_reference(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float = 1.0,
    master: Tensor | None = None,
) -> None:
    """The same in plain PyTorch: the definition, and the fallback on devices without kernels."""
    beta1, beta2 = betas
    g = grad.to(exp_avg.dtype) * grad_scale
    exp_avg.lerp_(g, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    denominator = exp_avg_sq.sqrt().div_((1 - beta2**step) ** 0.5).add_(eps)
    p = param.to(exp_avg.dtype) if master is None else master
    updated = (p * (1 - lr * weight_decay)).addcdiv_(exp_avg, denominator, value=-lr / (1 - beta1**step))
    param.copy_(updated)
    if master is not None:
        master.copy_(updated)


def _check(
    param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: int, master: Tensor | None
) -> None:
    _library.check_dtype("adamw_step", "param", param)
    if grad.dtype != param.dtype:
        raise TypeError(f"adamw_step: grad must have the dtype of param, {param.dtype}, got {grad.dtype}")
    wide = torch.promote_types(param.dtype, torch.float32)
    states = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq} | ({} if master is None else {"master": master})
    for name, tensor in states.items():
        if tensor.dtype != wide:
            raise TypeError(
                f"adamw_step: {name} must be {wide} for a {param.dtype} param, got {tensor.dtype}"
            )
    if master is not None and param.dtype not in (torch.bfloat16, torch.float16):
        raise TypeError(f"adamw_step: master is for bfloat16 and float16 params, got a {param.dtype} param")
    for name, tensor in {"grad": grad, **states}.items():
        if tensor.shape != param.shape:
            raise ValueError(
                f"adamw_step: {name} must have the shape of param, {tuple(param.shape)}, got {tuple(tensor.shape)}"
            )
    for name, tensor in {"param": param, **states}.items():
        if not tensor.is_contiguous():
            raise ValueError(f"adamw_step: {name} must be contiguous, got strides {tensor.stride()}")
    if step < 1:
        raise ValueError(f"adamw_step: step must be >= 1, got {step}")


@_library.register_fake("adamw_step_")
def _(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    master: Tensor | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float,
) -> None:
    return None
