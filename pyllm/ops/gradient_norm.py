"""The 2-norm of many tensors taken as one vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyllm.ops import _library


def gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    """sqrt of the sum of squares over all tensors, in one fixed order: the same bits at any thread count.

    Args:
        grads: tensors of any shape, float64, float32, bfloat16 or float16, all on one device. None: norm 0.

    Returns:
        () float32 (float64 where the first tensor is float64). NaN and infinity pass through.

    Raises:
        TypeError: a tensor has another dtype or is sparse.
    """
    for i, grad in enumerate(grads):
        _library.check_dtype("gradient_norm", f"grads[{i}]", grad)
        if grad.layout != torch.strided:
            raise TypeError(f"gradient_norm: grads[{i}] must be dense, got {grad.layout}")
    on_cuda = (
        bool(grads)
        and grads[0].is_cuda
        and all(g.device == grads[0].device and g.dtype is not torch.float64 for g in grads)
    )
    if not grads or not _library.has_kernels(grads[0], cuda=on_cuda):
        return gradient_norm_reference(grads)
    return torch.ops.pyllm.gradient_norm.default([grad.detach() for grad in grads])


def gradient_norm_reference(grads: Sequence[Tensor]) -> Tensor:
    """The same in plain PyTorch: the fallback on devices without kernels. Its order is torch's."""
    total = torch.zeros((), dtype=torch.float64, device=grads[0].device if grads else None)
    for grad in grads:
        total = total + grad.detach().to(torch.float64).square().sum()
    wide = torch.float64 if grads and grads[0].dtype == torch.float64 else torch.float32
    return total.sqrt().to(wide)


@_library.register_fake("gradient_norm")
def _(grads: Sequence[Tensor]) -> Tensor:
    return grads[0].new_empty((), dtype=torch.promote_types(grads[0].dtype, torch.float32))
