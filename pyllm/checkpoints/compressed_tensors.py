"""compressed-tensors, the layout of llm-compressor and vLLM: packed integers, plain 8-bit integers, 8-bit floats.

pack-quantized   weight_packed (out, in * bits / 32) int32, low bits first, codes plus 2^(bits - 1);
                 weight_scale (out, groups), weight_zero_point (out * bits / 32, groups) if asymmetric,
                 weight_shape (2,), weight_g_idx (in,) if ordered by activation
int-quantized    weight (out, in) int8, weight_scale (out, groups), weight_zero_point (out, groups) int8
float-quantized  weight (out, in) float8_e4m3fn, weight_scale
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyllm.checkpoints.integer_weight import (
    IntegerWeight,
    checked_groups,
    equal_groups,
    stored_part,
    stored_scales,
    unpack_bits,
)
from pyllm.checkpoints.stored import StoredTensor


def read_packed(stored: dict[str, StoredTensor], module: str) -> IntegerWeight:
    """The weight of `module`, stored "pack-quantized" with 4 or 8 bits; the shapes say how many.

    Raises:
        ValueError: a part is missing or of the wrong shape; names it.
    """
    words = stored_part(stored, f"{module}.weight_packed", torch.int32, 2)
    outputs, inputs = stored_shape(stored, module)
    scales = stored_scales(stored, f"{module}.weight_scale")
    count = scales.shape[1]
    fitting = [bits for bits in (4, 8) if words.shape == (outputs, -(-inputs * bits // 32))]
    if not fitting or scales.shape[0] != outputs:
        raise ValueError(
            f"{module}.weight_packed has shape {tuple(words.shape)} and weight_scale {tuple(scales.shape)} for a "
            f"weight of {outputs} x {inputs} with 4 or 8 bits"
        )
    bits = fitting[0]
    zeros = torch.full((outputs, count), 1 << bits - 1, dtype=torch.uint8)
    if f"{module}.weight_zero_point" in stored:
        zeros = _packed_zeros(stored, f"{module}.weight_zero_point", bits, outputs, count)
    groups = equal_groups(inputs, count, module)
    if f"{module}.weight_g_idx" in stored:
        g_idx = stored_part(stored, f"{module}.weight_g_idx", torch.int32, 1)
        groups = checked_groups(g_idx.long(), inputs, count, f"{module}.weight_g_idx")
    return IntegerWeight(unpack_bits(words, bits, inputs), scales, zeros, bits, groups)


def read_int8(stored: dict[str, StoredTensor], module: str) -> IntegerWeight:
    """The weight of `module`, stored "int-quantized": codes move from [-128, 127] to [0, 255]."""
    codes = stored_part(stored, f"{module}.weight", torch.int8, 2)
    scales = stored_scales(stored, f"{module}.weight_scale")
    outputs, inputs = codes.shape
    if scales.shape[0] == 1:
        scales = scales.expand(outputs, -1).contiguous()
    if scales.shape[0] != outputs:
        raise ValueError(f"{module}.weight_scale has {scales.shape[0]} rows for {outputs} outputs")
    zeros = torch.full(scales.shape, 128, dtype=torch.uint8)
    if f"{module}.weight_zero_point" in stored:
        read = stored_part(stored, f"{module}.weight_zero_point", torch.int8, 2)
        if read.shape != scales.shape:
            raise ValueError(
                f"{module}.weight_zero_point has shape {tuple(read.shape)}, expected {tuple(scales.shape)}"
            )
        zeros = _unsigned(read)
    groups = equal_groups(inputs, scales.shape[1], module)
    return IntegerWeight(_unsigned(codes), scales, zeros, 8, groups)


def _unsigned(numbers: Tensor) -> Tensor:
    return numbers.view(torch.uint8) ^ 128


def stored_shape(stored: dict[str, StoredTensor], module: str) -> tuple[int, int]:
    """(out, in) of a "pack-quantized" weight."""
    name = f"{module}.weight_shape"
    tensor = stored.get(name)
    if tensor is None or tensor.shape != (2,) or tensor.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name!r} must hold the two sizes of the weight")
    outputs, inputs = (int(size) for size in tensor.read(torch.int64))
    return outputs, inputs


def _packed_zeros(stored: dict[str, StoredTensor], name: str, bits: int, outputs: int, count: int) -> Tensor:
    words = stored_part(stored, name, torch.int32, 2)
    if words.shape != (-(-outputs * bits // 32), count):
        raise ValueError(f"{name!r} has shape {tuple(words.shape)} for {outputs} outputs, {count} groups")
    return unpack_bits(words.t().contiguous(), bits, outputs).t().contiguous()
