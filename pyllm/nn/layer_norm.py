"""LayerNorm with the residual addition that precedes it."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor


class LayerNorm(torch.nn.LayerNorm):
    """Drop-in for `torch.nn.LayerNorm` (arXiv 1607.06450), called as `pyllm.nn.RMSNorm` is.

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
        if residual is None:
            return layer_norm(x, self.weight, self.bias, self.eps)[0]
        total = x + residual.to(x.dtype)
        return layer_norm(total, self.weight, self.bias, self.eps)[0], total


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(y, mean, reciprocal of the standard deviation) over the last dimension, in x's dtype under autocast too."""
    bias = None if bias is None else bias.to(x.dtype)
    return torch.native_layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias, eps)
