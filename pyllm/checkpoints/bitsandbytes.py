"""bitsandbytes checkpoints: NF4 (QLoRA, arXiv 2305.14314) and LLM.int8 rows.

    weight (out * in / 2, 1) uint8       two codes a byte, the first in the high nibble
    weight.absmax (blocks,)              float32, or uint8 where the scales are quantized too ("double quantization")
    weight.quant_map (16,)               value of each code
    weight.nested_absmax, weight.nested_quant_map    scale of each 256 absmax, value of each of their codes
    weight.quant_state.bitsandbytes__nf4             JSON: shape, blocksize, dtype, nested_offset

NF4: weight = quant_map[code] * absmax of its block. LLM.int8: weight int8 (out, in), SCB (out,) float32, weight =
code * SCB / 127.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyllm.checkpoints.integer_weight import IntegerWeight, stored_part
from pyllm.checkpoints.stored import StoredTensor
from pyllm.ops import QuantizedTensor

# Quantiles of a normal distribution (bitsandbytes' functional.py).
NF4_VALUES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
STATE = "quant_state.bitsandbytes__nf4"
NESTED_BLOCK = 256
# JSON of a stranger: real states have under 300 bytes.
_MAX_STATE_BYTES = 65536


@dataclass(frozen=True)
class NestedScales:
    """absmax = table[codes] * scales of each 256 + offset.

    Attributes:
        codes: (blocks,) uint8. table: (256,) float32. scales: (ceil(blocks / 256),) float32.
    """

    codes: Tensor
    table: Tensor
    scales: Tensor
    offset: float

    def dequantized(self) -> Tensor:
        """(blocks,) float32."""
        return nested_values(self.codes, self.table, self.scales, NESTED_BLOCK, self.offset)


@dataclass(frozen=True)
class NF4Weight:
    """weight[o, i] = NF4_VALUES[codes[o, i]] * absmax[o, i / block].

    Attributes:
        codes: (out, in) uint8 below 16.
        absmax: (out, in / block) float32.
        block: inputs to a scale.
        nested: what absmax is made of, where it is quantized itself and to be written so.
    """

    codes: Tensor
    absmax: Tensor
    block: int
    nested: NestedScales | None = None

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """(out, in), multiplied in float32 and rounded once."""
        values = torch.tensor(NF4_VALUES)[self.codes.int()]
        return (values * self.absmax.repeat_interleave(self.block, 1)).to(dtype)

    def packed(self) -> QuantizedTensor:
        """The same for products. ValueError if the blocks are not of 64."""
        return QuantizedTensor.from_codes("nf4", self.codes, self.absmax)


def read_nf4(stored: dict[str, StoredTensor], module: str) -> NF4Weight:
    """The weight of `module`.

    Raises:
        ValueError: a part is missing, of the wrong shape, or holds what is not supported; names it.
    """
    name = f"{module}.weight"
    outputs, inputs = stored_shape(stored, module)
    state = _state(stored, f"{name}.{STATE}")
    block = _count(state.get("blocksize"))
    if not block or inputs % block or inputs % 2:
        raise ValueError(f"{name}: blocks of {block} that span rows of {inputs} inputs are not supported")
    table = stored_part(stored, f"{name}.quant_map", torch.float32, 1)
    if table.shape != (16,) or not torch.equal(table, torch.tensor(NF4_VALUES)):
        raise ValueError(f"{name}.quant_map is not NF4's table")
    packed = stored_part(stored, name, torch.uint8, 2).flatten()
    if packed.shape[0] * 2 != outputs * inputs:
        raise ValueError(f"{name} has {packed.shape[0]} bytes for {outputs} x {inputs} codes of 4 bits")
    codes = torch.stack([packed >> 4, packed & 15], 1).view(outputs, inputs)
    absmax = _absmax(stored, name, state)
    if absmax.shape != (outputs * inputs // block,):
        raise ValueError(f"{name}.absmax has {absmax.shape[0]} scales for {outputs * inputs // block} blocks")
    return NF4Weight(codes, absmax.view(outputs, -1), block)


def stored_shape(stored: dict[str, StoredTensor], module: str) -> tuple[int, int]:
    """(out, in) of an NF4 weight."""
    name = f"{module}.weight.{STATE}"
    shape = _counts(_state(stored, name).get("shape"))
    if len(shape) != 2:
        raise ValueError(f"{name!r} lacks the two sizes of `shape`")
    return shape[0], shape[1]


def read_int8_rows(stored: dict[str, StoredTensor], module: str) -> IntegerWeight:
    """The weight of `module`, stored by LLM.int8 (arXiv 2208.07339)."""
    codes = stored_part(stored, f"{module}.weight", torch.int8, 2)
    rows = stored_part(stored, f"{module}.SCB", torch.float32, 1)
    if rows.shape[0] != codes.shape[0]:
        raise ValueError(f"{module}.SCB has {rows.shape[0]} scales for {codes.shape[0]} outputs")
    form = stored.get(f"{module}.weight_format")
    if form is not None and form.shape in ((), (1,)) and int(form.read(torch.int64)) != 0:
        raise ValueError(f"{module}.weight_format: only the row-major layout (0) is supported")
    zeros = torch.full((codes.shape[0], 1), 128, dtype=torch.uint8)
    groups = torch.zeros(codes.shape[1], dtype=torch.int64)
    return IntegerWeight(codes.view(torch.uint8) ^ 128, rows[:, None] / 127, zeros, 8, groups)


def _absmax(stored: dict[str, StoredTensor], name: str, state: dict[str, Any]) -> Tensor:
    tensor = stored.get(f"{name}.absmax")
    if tensor is None or tensor.dtype != torch.uint8:
        return stored_part(stored, f"{name}.absmax", torch.float32, 1)
    codes = stored_part(stored, f"{name}.absmax", torch.uint8, 1)
    table = stored_part(stored, f"{name}.nested_quant_map", torch.float32, 1)
    scales = stored_part(stored, f"{name}.nested_absmax", torch.float32, 1)
    block, offset = _count(state.get("nested_blocksize")), state.get("nested_offset")
    if not block or not isinstance(offset, (int, float)):
        raise ValueError(f"{name}.{STATE} lacks nested_blocksize or nested_offset")
    if table.shape != (256,) or scales.shape != (-(-codes.shape[0] // block),):
        raise ValueError(f"{name}: nested scales have shapes {tuple(table.shape)} and {tuple(scales.shape)}")
    return nested_values(codes, table, scales, block, offset)


def nested_values(codes: Tensor, table: Tensor, scales: Tensor, block: int, offset: float) -> Tensor:
    """Scales that are quantized themselves: table[codes] * scale of each `block` + offset, (blocks,) float32."""
    spread = scales.repeat_interleave(block)[: codes.shape[0]]
    return table[codes.int()] * spread + torch.tensor(offset, dtype=torch.float32)


def _state(stored: dict[str, StoredTensor], name: str) -> dict[str, Any]:
    raw = stored_part(stored, name, torch.uint8, 1)
    try:
        state = json.loads(bytes(raw[:_MAX_STATE_BYTES].tolist()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name!r} is not JSON: {error}") from None
    if not isinstance(state, dict):
        raise ValueError(f"{name!r} must hold a JSON object, got {type(state).__name__}")
    return state


def _count(value: Any) -> int:
    """`value` where it is a sane positive integer, otherwise 0."""
    return value if type(value) is int and 0 < value < 1 << 40 else 0


def _counts(values: Any) -> list[int]:
    """The list `values` if it holds sane positive integers, otherwise an empty one."""
    return values if isinstance(values, list) and all(map(_count, values)) else []
