"""GGUF block formats to plain tensors, through the compiled `pyllm::dequantize_gguf`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyllm.checkpoints.gguf import BLOCK_TYPES, GGUFError, TensorInfo
from pyllm.ops import _library

# Stored without blocks.
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
# csrc/formats/gguf_blocks.h
BLOCK_FORMATS = (
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4",
)


def check_supported(info: TensorInfo) -> None:
    """Raise GGUFError, which names type and tensor, if `dequantize` cannot read the tensor."""
    if info.type.name not in (*DTYPES, *BLOCK_FORMATS):
        supported = ", ".join((*DTYPES, *BLOCK_FORMATS))
        raise GGUFError(
            f"tensor {info.name!r} has type {info.type.name}, which is not supported ({supported} are)"
        )


def dequantize(data: np.ndarray, info: TensorInfo, dtype: torch.dtype) -> Tensor:
    """Values of a stored tensor.

    Blocks are unpacked in float32 with the arithmetic of the format's definition (the same bits as the `gguf`
    package) and rounded once to `dtype`.

    Args:
        data: (info.nbytes,) uint8, the stored bytes.
        dtype: of the result: float64, float32, bfloat16 or float16.

    Returns:
        A tensor of shape `info.shape` with memory of its own.

    Raises:
        GGUFError: a type that is not supported; names type and tensor.
        RuntimeError: the compiled operators are not there.
    """
    check_supported(info)
    name = info.type.name
    if name in DTYPES:
        # Files may align tensors to less than their elements.
        aligned = data if data.ctypes.data % DTYPES[name].itemsize == 0 else data.copy()
        return torch.from_numpy(aligned).view(DTYPES[name]).to(dtype, copy=True).reshape(info.shape)
    if not _library.LOADED:
        raise RuntimeError(f"dequantizing needs the compiled operators: {_library.why_not_loaded()}")
    values = torch.ops.pyllm.dequantize_gguf.default(torch.from_numpy(data), name, dtype)
    return values.reshape(info.shape)


@_library.register_fake("dequantize_gguf")
def _(blocks: Tensor, format: str, dtype: torch.dtype) -> Tensor:
    elements, size = next(
        (block.elements, block.bytes) for block in BLOCK_TYPES.values() if block.name == format
    )
    return blocks.new_empty(blocks.shape[0] // size * elements, dtype=dtype)
