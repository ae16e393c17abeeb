"""RMSNorm over `pyllm.ops.rms_norm`."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

from pyllm import ops


class RMSNorm(torch.nn.RMSNorm):
    """Drop-in for `torch.nn.RMSNorm` over the last dimension (arXiv 1910.07467), residual addition fused.

    x (..., hidden) -> y of the same shape and dtype. With `residual` of x's shape: normalizes x + residual
    and returns (y, x + residual).

    Args:
        normalized_shape: size of the last dimension; a tuple of one is taken too.
        eps: added to the mean square; None means the machine epsilon of x's dtype, as in torch.
        weight_offset: added to the weight; Gemma's norms multiply by 1 + weight.

    Raises:
        ValueError: more than one normalized dimension, or no weight asked for.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        weight_offset: float = 0.0,
    ) -> None:
        if not isinstance(normalized_shape, int) and len(normalized_shape) != 1:
            raise ValueError(f"normalized_shape must be one dimension, got {tuple(normalized_shape)}")
        if not elementwise_affine:
            raise ValueError("elementwise_affine=False is not supported: the op always scales by a weight")
        self.weight_offset = weight_offset
        super().__init__(normalized_shape, eps, True, device, dtype)

    def reset_parameters(self) -> None:
        """Weights that multiply by one."""
        if not self.weight.is_meta:
            torch.nn.init.constant_(self.weight, 1.0 - self.weight_offset)

    @overload
    def forward(self, x: Tensor) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]: ...
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        return ops.rms_norm(x, self.weight, eps, residual=residual, weight_offset=self.weight_offset)
