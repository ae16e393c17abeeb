"""LayerNorm over `pyllm.ops.layer_norm`."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

from pyllm import ops


class LayerNorm(torch.nn.LayerNorm):
    """Drop-in for `torch.nn.LayerNorm` over the last dimension (arXiv 1607.06450), residual addition fused.

    x (..., hidden) -> y of the same shape and dtype. With `residual` of x's shape: normalizes x + residual
    and returns (y, x + residual).

    Raises:
        ValueError: more than one normalized dimension, or no weight asked for.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(normalized_shape, int) and len(normalized_shape) != 1:
            raise ValueError(f"normalized_shape must be one dimension, got {tuple(normalized_shape)}")
        if not elementwise_affine:
            raise ValueError("elementwise_affine=False is not supported: the norm always scales by a weight")
        super().__init__(normalized_shape, eps, True, bias, device, dtype)

    @overload
    def forward(self, x: Tensor) -> Tensor: ...
    @overload
    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]: ...
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        return ops.layer_norm(x, self.weight, self.bias, self.eps, residual=residual)
