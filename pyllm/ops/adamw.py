"""One AdamW step of one tensor or many, in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    rounding_seed: int | None = None,
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
        rounding_seed: round a bfloat16 param without master stochastically (Gupta et al., "Deep learning with limited
            numerical precision", 2015): up with the probability that makes it right on average. The noise is a function
            of this seed, `step` and the element's place, whatever the number of threads.

    Raises:
        ValueError: shapes do not fit, a tensor is not contiguous, or step < 1. TypeError: dtypes do not fit.
    """
    adamw_steps(
        [param],
        [grad],
        [exp_avg],
        [exp_avg_sq],
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        steps=[step],
        grad_scale=grad_scale,
        masters=None if master is None else [master],
        rounding_seeds=None if rounding_seed is None else [rounding_seed],
    )


def adamw_steps(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    steps: Sequence[int],
    grad_scale: float = 1.0,
    masters: Sequence[Tensor] | None = None,
    rounding_seeds: Sequence[int] | None = None,
) -> None:
    """`adamw_step` of many tensors in one call; everything is checked before anything is written.

    Raises:
        ValueError: as there, or the sequences differ in length. TypeError: dtypes do not fit.
    """
    sequences = [grads, exp_avgs, exp_avg_sqs, steps, masters, rounding_seeds]
    if any(len(sequence) != len(params) for sequence in sequences if sequence is not None):
        lengths = [None if sequence is None else len(sequence) for sequence in sequences]
        raise ValueError(
            f"adamw_steps: grads, exp_avgs, exp_avg_sqs, steps, masters and rounding_seeds must have one entry for "
            f"each of {len(params)} params, got {lengths}"
        )
    lists: list[Sequence[Any]] = [params, grads, exp_avgs, exp_avg_sqs, steps]
    lists += [[None] * len(params) if each is None else each for each in (masters, rounding_seeds)]
    for entry in zip(*lists, strict=True):
        _check(*entry)
    if not params:
        return
    if not _library.runs_kernels(params[0], cuda=params[0].is_cuda and _fit_cuda(params)):
        for param, grad, exp_avg, exp_avg_sq, step, master, seed in zip(*lists, strict=True):
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
                rounding_seed=seed,
            )
        return
    tensors = (list(each or ()) for each in (params, grads, exp_avgs, exp_avg_sqs, masters))
    with torch.no_grad():
        torch.ops.pyllm.adamw_step_.default(
            *tensors, list(steps), list(rounding_seeds or ()), lr, *betas, eps, weight_decay, grad_scale
        )


def _fit_cuda(params: Sequence[Tensor]) -> bool:
    """True if the CUDA kernel takes all of them in one call."""
    return all(p.device == params[0].device and p.dtype is not torch.float64 for p in params)


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
    rounding_seed: int | None = None,
) -> None:
    """The same in plain PyTorch: the definition, and the fallback on devices without kernels. Its noise is torch's."""
    beta1, beta2 = betas
    g = grad.to(exp_avg.dtype) * grad_scale
    exp_avg.lerp_(g, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    denominator = exp_avg_sq.sqrt().div_((1 - beta2**step) ** 0.5).add_(eps)
    p = param.to(exp_avg.dtype) if master is None else master
    updated = (p * (1 - lr * weight_decay)).addcdiv_(exp_avg, denominator, value=-lr / (1 - beta1**step))
    param.copy_(updated if rounding_seed is None else _rounded_stochastically(updated, rounding_seed, step))
    if master is not None:
        master.copy_(updated)


def _rounded_stochastically(x: Tensor, seed: int, step: int) -> Tensor:
    """float32 with the lower halves cleared: what bfloat16 holds."""
    generator = torch.Generator(x.device).manual_seed((seed * 0x9E3779B97F4A7C15 + step) % 2**63)
    noise = torch.randint(2**16, x.shape, generator=generator, device=x.device, dtype=torch.int32)
    rounded = ((x.view(torch.int32) + noise) & -(2**16)).view(torch.float32)
    return torch.where(x.isfinite(), rounded, x)


def _check(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: int,
    master: Tensor | None,
    rounding_seed: int | None,
) -> None:
    dtype, shape = param.dtype, param.shape
    _library.check_dtype("adamw_step", "param", param)
    if grad.dtype != dtype:
        raise TypeError(f"adamw_step: grad must have the dtype of param, {dtype}, got {grad.dtype}")
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    states = [("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)]
    if master is not None:
        states.append(("master", master))
    for name, tensor in states:
        if tensor.dtype != wide:
            raise TypeError(f"adamw_step: {name} must be {wide} for a {dtype} param, got {tensor.dtype}")
    if master is not None and dtype not in (torch.bfloat16, torch.float16):
        raise TypeError(f"adamw_step: master is for bfloat16 and float16 params, got a {dtype} param")
    if rounding_seed is not None and (dtype is not torch.bfloat16 or master is not None):
        raise TypeError(
            f"adamw_step: rounding_seed is for bfloat16 params without master, got a {dtype} param"
            f"{'' if master is None else ' with master'}"
        )
    for name, tensor in [("grad", grad), *states]:
        if tensor.shape != shape:
            raise ValueError(
                f"adamw_step: {name} must have the shape of param, {tuple(shape)}, got {tuple(tensor.shape)}"
            )
    for name, tensor in [("param", param), *states]:
        if not tensor.is_contiguous():
            raise ValueError(f"adamw_step: {name} must be contiguous, got strides {tensor.stride()}")
    if step < 1:
        raise ValueError(f"adamw_step: step must be >= 1, got {step}")


@_library.register_fake("adamw_step_")
def _(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    masters: list[Tensor],
    steps: list[int],
    rounding_seeds: list[int],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    grad_scale: float,
) -> None:
    return None
