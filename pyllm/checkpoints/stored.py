"""What a model file offers to the loader: named tensors that are read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        parts: the tensors it is stacked from, one per expert.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    nbytes: int
    read: Callable[[torch.dtype], Tensor]
    quantized: Callable[[], QuantizedTensor] | None = None
    blocks: tuple[str, Callable[[], Tensor]] | None = None
    parts: tuple[StoredTensor, ...] = ()


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


def transposed(tensor: StoredTensor) -> StoredTensor:
    """A matrix that is stored (in, out), as (out, in)."""
    return StoredTensor(
        tensor.shape[::-1], tensor.dtype, tensor.nbytes, lambda dtype: tensor.read(dtype).t().contiguous()
    )


def split_rows(tensor: StoredTensor, sizes: Sequence[int]) -> list[StoredTensor]:
    """Tensors that are stored as one, `sizes` rows each; a quantized one is dequantized when read.

    Raises:
        ValueError: the sizes do not add up to the tensor's rows.
    """
    if not tensor.shape or sum(sizes) != tensor.shape[0]:
        raise ValueError(f"has shape {tensor.shape}, expected {sum(sizes)} rows")
    firsts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [_rows(tensor, first, size) for first, size in zip(firsts, sizes, strict=True)]


def _rows(tensor: StoredTensor, first: int, size: int) -> StoredTensor:
    def read(dtype: torch.dtype) -> Tensor:
        return tensor.read(dtype)[first : first + size].clone()

    nbytes = tensor.nbytes * size // tensor.shape[0]
    return StoredTensor((size, *tensor.shape[1:]), tensor.dtype, nbytes, read)


def stacked(parts: Sequence[StoredTensor]) -> StoredTensor:
    """Tensors of one shape side by side, (len(parts), *shape).

    Raises:
        ValueError: shapes differ.
    """
    shapes = {part.shape for part in parts}
    if len(shapes) != 1:
        raise ValueError(f"experts have different shapes: {sorted(shapes)}")
    dtypes = {part.dtype for part in parts}
    return StoredTensor(
        (len(parts), *shapes.pop()),
        dtypes.pop() if len(dtypes) == 1 else None,
        sum(part.nbytes for part in parts),
        lambda dtype: torch.stack([part.read(dtype) for part in parts]),
        parts=tuple(parts),
    )
