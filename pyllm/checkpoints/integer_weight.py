"""Weights stored as small integers with a scale and a zero per group of inputs: what GPTQ, AWQ and others share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyllm.checkpoints.stored import StoredTensor
from pyllm.ops import QuantizedTensor

BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class IntegerWeight:
    """weight[o, i] = (codes[o, i] - zeros[o, g]) * scales[o, g] with g = groups[i].

    Attributes:
        codes: (out, in) uint8.
        scales: (out, groups), floating point as stored.
        zeros: (out, groups) uint8, on the grid of the codes.
        bits: of a code.
        groups: (in,) int64 group of each input, in any order.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    bits: int
    groups: Tensor

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """(out, in), multiplied in float32, where products of 16-bit scales are exact, and rounded once."""
        steps = self.codes.float() - self.zeros.float()[:, self.groups]
        return (steps * self.scales.float()[:, self.groups]).to(dtype)

    def packed(self) -> QuantizedTensor:
        """The same for products. ValueError if there are no kernels for such bits and groups."""
        symmetric = bool((self.zeros == 1 << self.bits - 1).all())
        codes, zeros = self.codes.to(torch.int16), None if symmetric else self.zeros.to(torch.int16)
        if symmetric:
            codes -= 1 << self.bits - 1
        name = f"int{self.bits}"
        return QuantizedTensor.from_codes(name, codes, self.scales, zeros, group_index=self.groups)


def equal_groups(inputs: int, count: int, name: str) -> Tensor:
    """(inputs,) group of each input where `count` groups of one size follow one another."""
    if count < 1 or inputs % count:
        raise ValueError(f"{name}: {count} groups do not divide {inputs} inputs")
    return torch.arange(inputs) // (inputs // count)


def checked_groups(groups: Tensor, inputs: int, count: int, name: str) -> Tensor:
    """g_idx as stored, in range and of the right length."""
    if groups.shape != (inputs,) or bool(((groups < 0) | (groups >= count)).any()):
        raise ValueError(f"{name} must hold {inputs} group numbers below {count}")
    return groups


def unpack_bits(words: Tensor, bits: int, count: int) -> Tensor:
    """Numbers of `bits` bits from a stream of 32-bit words, low bits first.

    Args:
        words: (rows, words) int32. bits: 2, 3, 4 or 8; numbers of 3 bits may straddle words.
        count: numbers per row.

    Returns:
        (rows, count) uint8.
    """
    if 8 % bits == 0:  # whole numbers per byte, and int32 is little endian here
        per_byte = 8 // bits
        shifts = torch.arange(per_byte, dtype=torch.uint8) * bits
        numbers = words.contiguous().view(torch.uint8)[..., None] >> shifts & (1 << bits) - 1
        return numbers.flatten(-2)[:, :count].contiguous()
    positions = torch.arange(count) * bits
    word, shift = positions // 32, positions % 32
    stream = words.to(torch.int64) & 0xFFFFFFFF
    stream = torch.cat([stream, stream.new_zeros(stream.shape[0], 1)], 1)
    pairs = stream[:, word] | stream[:, word + 1] << 32
    return (pairs >> shift & (1 << bits) - 1).to(torch.uint8)


def stored_part(stored: dict[str, StoredTensor], name: str, dtype: torch.dtype, rank: int) -> Tensor:
    """A companion tensor, as it is stored. Raises ValueError, which names it, if it is missing or of another kind."""
    tensor = stored.get(name)
    if tensor is None:
        raise ValueError(f"tensor {name!r} missing")
    if tensor.dtype != dtype or len(tensor.shape) != rank:
        raise ValueError(
            f"{name!r} must be {dtype} of {rank} dimensions, got {tensor.dtype} of shape {tensor.shape}"
        )
    return tensor.read(dtype)


def stored_scales(stored: dict[str, StoredTensor], name: str) -> Tensor:
    """Scales: two dimensions, floating point."""
    tensor = stored.get(name)
    if tensor is None:
        raise ValueError(f"tensor {name!r} missing")
    if tensor.dtype is None or not tensor.dtype.is_floating_point or len(tensor.shape) != 2:
        raise ValueError(
            f"{name!r} must be floating point of 2 dimensions, got {tensor.dtype} of {tensor.shape}"
        )
    return tensor.read(tensor.dtype)
