"""AWQ checkpoints in the GEMM layout of AutoAWQ.

    qweight (in, out / 8) int32           codes, eight to a word along out, in the order of _ORDER
    qzeros  (groups, out / 8) int32       zeros, packed alike
    scales  (groups, out) float

weight[o, i] = (code - zero) * scale.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyllm.checkpoints.integer_weight import (
    IntegerWeight,
    equal_groups,
    stored_part,
    stored_scales,
    unpack_bits,
)
from pyllm.checkpoints.stored import StoredTensor

# Output 8 * w + j lies in nibble _PLACE[j] of word w.
_PLACE = (0, 4, 1, 5, 2, 6, 3, 7)


def read_awq(stored: dict[str, StoredTensor], module: str, settings: dict[str, Any]) -> IntegerWeight:
    """The weight of `module`.

    Raises:
        ValueError: a part is missing or of the wrong shape, or the layout is not the GEMM one of 4 bits; names it.
    """
    version = str(settings.get("version", "gemm")).lower()
    if version != "gemm":
        raise ValueError(f"AWQ version {version!r} is not supported, expected 'gemm'")
    bits = settings.get("bits", settings.get("w_bit", 4))
    if bits != 4:
        raise ValueError(f"AWQ with {bits} bits is not supported, expected 4")
    scales = stored_scales(stored, f"{module}.scales").t().contiguous()
    outputs, count = scales.shape
    words = stored_part(stored, f"{module}.qweight", torch.int32, 2)
    inputs = words.shape[0]
    zeros = stored_part(stored, f"{module}.qzeros", torch.int32, 2)
    for name, part, rows in (("qweight", words, inputs), ("qzeros", zeros, count)):
        if part.shape[0] != rows or part.shape[1] * 8 != outputs:
            raise ValueError(
                f"{module}.{name} has shape {tuple(part.shape)} for {outputs} outputs, {count} groups"
            )
    groups = equal_groups(inputs, count, module)
    return IntegerWeight(_unpacked(words), scales, _unpacked(zeros), 4, groups)


def _unpacked(words: Tensor) -> Tensor:
    """(rows, out / 8) words -> (out, rows) numbers."""
    numbers = unpack_bits(words, 4, words.shape[1] * 8).unflatten(1, (-1, 8))
    return numbers[..., list(_PLACE)].flatten(1).t().contiguous()
