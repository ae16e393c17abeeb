"""Quantized weights as the tensors that other libraries store: the inverse of the readers beside this file."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from pyllm.checkpoints.bitsandbytes import NESTED_BLOCK, NF4_VALUES, STATE, NestedScales, NF4Weight
from pyllm.checkpoints.integer_weight import IntegerWeight


def packed_parts(weight: IntegerWeight, module: str, *, symmetric: bool) -> dict[str, Tensor]:
    """The tensors of a "pack-quantized" weight with groups in order."""
    parts = {
        f"{module}.weight_packed": pack_bits(weight.codes, weight.bits),
        f"{module}.weight_scale": weight.scales,
        f"{module}.weight_shape": torch.tensor(weight.codes.shape),
    }
    if not symmetric:
        parts[f"{module}.weight_zero_point"] = (
            pack_bits(weight.zeros.t().contiguous(), weight.bits).t().contiguous()
        )
    return parts


def int8_parts(weight: IntegerWeight, module: str, *, symmetric: bool) -> dict[str, Tensor]:
    """The tensors of an "int-quantized" weight."""
    parts = {
        f"{module}.weight": (weight.codes ^ 128).view(torch.int8),
        f"{module}.weight_scale": weight.scales,
    }
    if not symmetric:
        parts[f"{module}.weight_zero_point"] = (weight.zeros ^ 128).view(torch.int8)
    return parts


def nf4_parts(weight: NF4Weight, module: str, dtype: str) -> dict[str, Tensor]:
    """The tensors that bitsandbytes stores for `weight`, its scales quantized to 8 bits.

    Args:
        dtype: what bitsandbytes computes in after loading ("bfloat16").
    """
    name = f"{module}.weight"
    codes = weight.codes.flatten()
    nested = weight.nested or quantize_absmax(weight.absmax.flatten())
    state = {
        "quant_type": "nf4",
        "blocksize": weight.block,
        "dtype": dtype,
        "shape": list(weight.codes.shape),
        "nested_blocksize": NESTED_BLOCK,
        "nested_dtype": "float32",
        "nested_offset": nested.offset,
    }
    return {
        name: (codes[::2] << 4 | codes[1::2])[:, None],
        f"{name}.absmax": nested.codes,
        f"{name}.quant_map": torch.tensor(NF4_VALUES),
        f"{name}.nested_absmax": nested.scales,
        f"{name}.nested_quant_map": nested.table,
        f"{name}.{STATE}": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }


def quantize_absmax(absmax: Tensor) -> NestedScales:
    """absmax (blocks,) float32 less its mean, to 8 bits in blocks of 256."""
    offset = float(absmax.mean())
    centered = absmax - offset
    padded = torch.nn.functional.pad(centered, (0, -centered.shape[0] % NESTED_BLOCK)).view(-1, NESTED_BLOCK)
    scales = padded.abs().amax(1)
    table = dynamic_map()
    normalized = padded / torch.where(scales > 0, scales, 1.0)[:, None]
    above = torch.searchsorted(table, normalized.contiguous()).clamp(1, 255)
    low, high = table[above - 1], table[above]
    codes = torch.where(normalized - low <= high - normalized, above - 1, above)
    return NestedScales(codes.to(torch.uint8).flatten()[: absmax.shape[0]], table, scales, offset)


def dynamic_map() -> Tensor:
    """(256,) float32, ascending: bitsandbytes' "dynamic" 8-bit type (arXiv 2110.02861), signed.

    Seven powers of ten from 1e-6 to 1; the k-th of them has 2^k values between 0.1 and 1 times it, midpoints of equal
    parts. Zero and one complete it.
    """
    values = [0.0, 1.0]
    for k in range(7):
        edges = torch.linspace(0.1, 1, 2**k + 1, dtype=torch.float32)
        middles = (edges[:-1] + edges[1:]) / 2
        scaled = (10.0 ** (k - 6) * middles).tolist()
        values += [*scaled, *(-value for value in scaled)]
    return torch.tensor(sorted(values), dtype=torch.float32)


def pack_bits(numbers: Tensor, bits: int) -> Tensor:
    """The inverse of `unpack_bits`: (rows, count) below 2^bits -> (rows, ceil(count * bits / 32)) int32."""
    rows, count = numbers.shape
    width = -(-count * bits // 32)
    stream = torch.zeros((rows, width + 1), dtype=torch.int64)
    positions = torch.arange(count) * bits
    word, shift = positions // 32, positions % 32
    pairs = numbers.to(torch.int64) << shift
    stream.index_add_(1, word, pairs & 0xFFFFFFFF)
    stream.index_add_(1, word + 1, pairs >> 32)
    return (stream[:, :width] << 32 >> 32).to(torch.int32)
