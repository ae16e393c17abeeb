"""Weights in float8_e4m3fn with scales: "fp8" folders (one scale per tensor or per 128 x 128 block) and
compressed-tensors' "float-quantized" (per tensor or per row).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyllm.checkpoints.integer_weight import stored_part
from pyllm.checkpoints.stored import StoredTensor
from pyllm.ops import QuantizedTensor


@dataclass(frozen=True)
class Float8Weight:
    """weight[o, i] = codes[o, i] * scales[o, i / block].

    Attributes:
        codes: (out, in) float8_e4m3fn.
        scales: (out, ceil(in / block)) float32.
        block: inputs to a scale, `in` for one per row.
    """

    codes: Tensor
    scales: Tensor
    block: int

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """(out, in), multiplied in float32 and rounded once."""
        inputs = self.codes.shape[1]
        spread = self.scales.repeat_interleave(self.block, 1)[:, :inputs]
        return (self.codes.float() * spread).to(dtype)

    def packed(self) -> QuantizedTensor:
        """The same for products. ValueError if scales are neither one per row nor per 128 inputs."""
        return QuantizedTensor.from_codes("fp8_e4m3", self.codes, self.scales)


def read_float8(stored: dict[str, StoredTensor], module: str, block: tuple[int, int] | None) -> Float8Weight:
    """The weight of `module`; its scales are called weight_scale or weight_scale_inv, both multiply.

    Args:
        block: rows and columns to a scale (weight_block_size), None for one per tensor or per row.

    Raises:
        ValueError: a part is missing or the shapes do not fit; names it.
    """
    codes = stored_part(stored, f"{module}.weight", torch.float8_e4m3fn, 2)
    names = [f"{module}.weight_scale", f"{module}.weight_scale_inv"]
    name = next((name for name in names if name in stored), names[0])
    scale = stored.get(name)
    if scale is None or scale.dtype is None or not scale.dtype.is_floating_point:
        raise ValueError(f"{name!r} must be there and floating point")
    values, (outputs, inputs) = scale.read(torch.float32), codes.shape
    if values.numel() == 1:
        return Float8Weight(codes, values.reshape(1, 1).expand(outputs, 1).contiguous(), inputs)
    rows, columns = block or (1, inputs)
    if values.shape != (-(-outputs // rows), -(-inputs // columns)):
        raise ValueError(
            f"{name!r} has shape {tuple(values.shape)} for blocks of {rows} x {columns} of {outputs} x {inputs}"
        )
    return Float8Weight(codes, values.repeat_interleave(rows, 0)[:outputs].contiguous(), columns)
