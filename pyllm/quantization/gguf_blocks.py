"""Weights to GGUF blocks, rounded to the nearest, through the compiled `pyllm::quantize_gguf`.

Scales are searched for the least squared error of each block (csrc/formats/group_fit.h).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyllm.checkpoints.dequantize import BLOCK_FORMATS
from pyllm.checkpoints.gguf import BLOCK_TYPES, BlockType
from pyllm.ops import _library

# csrc/formats/quantize.cpp writes every type that is read.
GGUF_FORMATS = BLOCK_FORMATS
BLOCKS: dict[str, BlockType] = {block.name: block for block in BLOCK_TYPES.values()}


def quantize_gguf(weight: Tensor, name: str) -> Tensor:
    """Blocks of `weight` (rows, in) in the GGUF type `name`: (rows, bytes per row) uint8.

    Raises:
        ValueError: an unknown type, rows that are no whole number of blocks, or values that are not finite.
        RuntimeError: the compiled operators are not there.
    """
    if name not in GGUF_FORMATS:
        raise ValueError(f"format must be one of {', '.join(GGUF_FORMATS)}, got {name!r}")
    if weight.dim() != 2 or weight.shape[1] % BLOCKS[name].elements:
        raise ValueError(
            f"weight must have shape (out, in) with in a multiple of {name}'s {BLOCKS[name].elements}, "
            f"got {tuple(weight.shape)}"
        )
    values = weight.detach().float().contiguous()
    if not bool(values.isfinite().all()):
        raise ValueError("weight holds values that are not finite")
    if not _library.LOADED:
        raise RuntimeError(f"quantizing needs the compiled operators: {_library.why_not_loaded()}")
    return torch.ops.pyllm.quantize_gguf.default(values.flatten(), name).view(weight.shape[0], -1)


@_library.register_fake("quantize_gguf")
def _(values: Tensor, format: str) -> Tensor:
    block = BLOCKS[format]
    return values.new_empty(values.shape[0] // block.elements * block.bytes, dtype=torch.uint8)
