"""What a model file offers to the loader: named tensors that are read one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyllm.ops import QuantizedTensor


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that still lies in a file.

    Attributes:
        shape: as in the state dict.
        dtype: what it is stored in; None for block-quantized data.
        nbytes: bytes in the file.
        read: reads it in the dtype asked for, as memory of its own.
        quantized: packs it for products as it is stored; None where it is not quantized or no kernel reads its format.
        blocks: GGUF's name of its format, and its (rows, bytes of a row) uint8 in the mapped file.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    nbytes: int
    read: Callable[[torch.dtype], Tensor]
    quantized: Callable[[], QuantizedTensor] | None = None
    blocks: tuple[str, Callable[[], Tensor]] | None = None


def common_dtype(tensors: dict[str, StoredTensor]) -> torch.dtype:
    """What dtype="auto" means for activations and plain weights: float32 if anything is quantized, otherwise the dtype
    most bytes are stored in.

    bfloat16 moves the logits of a small quantized model by 0.4, enough to change the first word of SmolLM2's answers.
    """
    sizes: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        if tensor.dtype is None:
            return torch.float32
        if tensor.dtype.is_floating_point:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)
