"""Layers whose weights stay quantized: a linear layer and an embedding, frozen."""

from __future__ import annotations

import torch
from torch import Tensor

from pyllm import ops
from pyllm.ops import QuantizedTensor


class QuantizedLinear(torch.nn.Module):
    """y = x @ weight.T + bias, computed from the codes of `weight` (`pyllm.ops.quantized_linear`).

    x (..., in) -> (..., out), in x's dtype. The weight is no parameter and not in the state dict; gradients reach x and
    the bias.
    """

    def __init__(self, weight: QuantizedTensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = None if bias is None else torch.nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return ops.quantized_linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return repr(self.weight)


class QuantizedEmbedding(torch.nn.Module):
    """Rows of a table of GGUF blocks, unpacked as they are looked up.

    ids (...) int64 -> (..., dim) in `dtype`.

    Args:
        blocks: (rows, bytes of a row) uint8, as in the file; may be a view of the mapped file.
        format: GGUF's name, "Q8_0" for example.
        dtype: of the result.
        weight: the same table packed for products, where it is also the model's head.
    """

    def __init__(
        self, blocks: Tensor, format: str, dtype: torch.dtype, weight: QuantizedTensor | None = None
    ) -> None:
        super().__init__()
        self.blocks, self.format, self.dtype, self.weight = blocks, format, dtype, weight

    def forward(self, ids: Tensor) -> Tensor:
        taken = self.blocks.index_select(0, ids.flatten())
        values = torch.ops.pyllm.dequantize_gguf.default(taken.flatten(), self.format, self.dtype)
        return values.view(*ids.shape, -1)

    def extra_repr(self) -> str:
        return f"{self.format}, {self.blocks.shape[0]} rows"
