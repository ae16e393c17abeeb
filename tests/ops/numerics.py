"""The error rule every op is held to, and the checks every op passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

FORWARD, GRADIENT = 2.0, 3.0  # allowed multiples of plain PyTorch's own error


def assert_as_accurate(ours: Tensor, plain: Tensor, exact: Tensor, factor: float = FORWARD) -> None:
    """Our max and RMS errors are at most `factor` times those of plain PyTorch in the same dtype, plus one ulp.

    The ulp is that of the largest exact value. `exact` is computed in a wider dtype.
    """
    assert ours.dtype == plain.dtype
    assert ours.shape == exact.shape
    if exact.numel() == 0:
        return
    error, rival = (ours.to(exact.dtype) - exact).abs(), (plain.to(exact.dtype) - exact).abs()
    ulp = exact.abs().max().item() * torch.finfo(ours.dtype).eps
    assert torch.isfinite(error).all()
    assert error.max().item() <= factor * rival.max().item() + ulp
    assert error.square().mean().sqrt().item() <= factor * rival.square().mean().sqrt().item() + ulp


def wider(x: Tensor) -> Tensor:
    """x in the dtype of the reference: float64 for float32, float32 for the 16-bit formats; a fresh leaf."""
    dtype = torch.float64 if x.dtype in (torch.float32, torch.float64) else torch.float32
    return x.detach().to(dtype).requires_grad_(x.requires_grad)


def gradients(
    function: Callable[..., Any], inputs: Sequence[Any], seed: int = 0
) -> tuple[list[Tensor], list[Tensor]]:
    """(outputs, gradients of all inputs that ask for one) under random output gradients equal for every dtype."""
    outputs = function(*inputs)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    generator = torch.Generator().manual_seed(seed)
    grads = [torch.randn(o.shape, generator=generator).bfloat16().to(o.dtype) for o in outputs]
    wanted = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    return outputs, list(torch.autograd.grad(outputs, wanted, grads))


def check_op(ours: Callable[..., Any], plain: Callable[..., Any], *draws: Sequence[Any]) -> None:
    """Outputs and gradients of `ours` obey the error rule against `plain` in the same and in a wider dtype.

    A result of one number is one draw of each error, which compares nothing: several `draws` of the inputs, of
    equal shapes, are judged as one result.
    """
    outputs, grads = zip(*(gradients(ours, inputs, seed) for seed, inputs in enumerate(draws)), strict=True)
    plain_outputs, plain_grads = zip(
        *(gradients(plain, inputs, seed) for seed, inputs in enumerate(draws)), strict=True
    )
    exact_outputs, exact_grads = zip(
        *(gradients(plain, in_wider_dtypes(inputs), seed) for seed, inputs in enumerate(draws)), strict=True
    )
    assert_all_as_accurate(outputs, plain_outputs, exact_outputs, FORWARD)
    assert_all_as_accurate(grads, plain_grads, exact_grads, GRADIENT)


def in_wider_dtypes(inputs: Sequence[Any]) -> list[Any]:
    return [wider(x) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]


def assert_all_as_accurate(
    ours: Sequence[list[Tensor]], plain: Sequence[list[Tensor]], exact: Sequence[list[Tensor]], factor: float
) -> None:
    """The error rule for each of the tensors of a result; the draws of one tensor are one."""
    sides = [
        [torch.stack(draws).detach() for draws in zip(*side, strict=True)] for side in (ours, plain, exact)
    ]
    for mine, theirs, right in zip(*sides, strict=True):
        assert_as_accurate(mine, theirs, right, factor)


def assert_same_bits_at_any_thread_count(function: Callable[[], Sequence[Tensor]]) -> None:
    """`function` returns bitwise equal tensors with 1, 2 and 3 threads."""
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append([t.clone() for t in function()])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)
