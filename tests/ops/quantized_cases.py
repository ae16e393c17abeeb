"""Random quantized weights and, independently of ours, what they mean."""

from __future__ import annotations

import gguf
import numpy as np
import torch
from torch import Tensor

from pyllm.ops.quantized_tensor import BLOCKS, QuantizedTensor

# Where the blocks of a format keep 16-bit floats.
_HALVES = {
    "q4_1": [0, 2],
    "q5_1": [0, 2],
    "q2_k": [80, 82],
    "q3_k": [108],
    "q4_k": [0, 2],
    "q5_k": [0, 2],
    "q6_k": [208],
    "mxfp4": [],
}
INTEGERS = tuple(
    f"int{bits}{group}{zeros}"
    for bits in (4, 8)
    for group in ("", "_g32", "_g64", "_g128")
    for zeros in ("", "_zp")
)
OTHERS = ("nf4", "fp8_e4m3", "fp8_e4m3_g128", "int4_g64_f32", "int8_g32_zp_f32")
FORMATS = (*BLOCKS, *INTEGERS, *OTHERS)


def random_blocks(format: str, rows: int, inputs: int, seed: int = 0) -> np.ndarray:
    """(rows, bytes) of blocks of a size as in real files: scales of about 2^-6, either sign, the rest any bits."""
    elements, size = BLOCKS[format]
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (rows * inputs // elements, size), dtype=np.uint8)
    for start in _HALVES.get(format, [0]):
        scales = rng.uniform(0.3, 1, len(data)) * rng.choice([-1, 1], len(data)) / 64
        data[:, start : start + 2] = scales.astype("<f2")[:, None].view(np.uint8)
    if format == "mxfp4":
        data[:, 0] = rng.integers(116, 124, len(data))
    return data.reshape(rows, -1)


def block_values(format: str, blocks: np.ndarray) -> Tensor:
    """By the gguf package's definition."""
    kind = gguf.GGMLQuantizationType[format.upper()]
    return torch.from_numpy(gguf.quants.dequantize(blocks, kind))


def group_of(format: str, inputs: int) -> int:
    """Inputs of a group."""
    named = next((int(part[1:]) for part in format.split("_") if part[0] == "g"), inputs)
    return 64 if format == "nf4" else named


def random_codes(format: str, rows: int, inputs: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor | None]:
    """codes, scales and zeros of a format that is not GGUF's."""
    generator = torch.Generator().manual_seed(seed)
    base, *rest = format.split("_")
    groups = -(-inputs // group_of(format, inputs))
    scales = (torch.rand(rows, groups, generator=generator) + 0.3) / 64
    if "f32" not in rest:
        scales = scales.half().float()
    low, high = {"int4": (-8, 8), "int8": (-128, 128), "nf4": (0, 16), "fp8": (0, 127)}[base]
    zeros = None
    if "zp" in rest:
        low, high = 0, high - low
        zeros = torch.randint(low, high + 1 if base == "int4" else high, (rows, groups), generator=generator)
    codes = torch.randint(low, high, (rows, inputs), generator=generator)
    if base == "fp8":  # both signs, and no NaN
        codes = codes + 128 * torch.randint(0, 2, codes.shape, generator=generator)
        return codes.to(torch.uint8).view(torch.float8_e4m3fn), scales, None
    return codes, scales, zeros


# bitsandbytes' table of the 16 quantiles.
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635]
NF4 += [-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725]
NF4 += [0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941]
NF4 += [0.7229568362236023, 1.0]


def code_values(format: str, codes: Tensor, scales: Tensor, zeros: Tensor | None) -> Tensor:
    """(code - zero) * scale, or table[code] * scale, in float32."""
    group = torch.arange(codes.shape[1]) // group_of(format, codes.shape[1])
    if format == "nf4":
        return torch.tensor(NF4)[codes] * scales[:, group]
    if zeros is not None:
        codes = codes - zeros[:, group]
    return codes.float() * scales[:, group]


def random_weight(format: str, rows: int, inputs: int, seed: int = 0) -> tuple[QuantizedTensor, Tensor]:
    """A weight and its exact values, float32."""
    if format in BLOCKS:
        blocks = random_blocks(format, rows, inputs, seed)
        weight = QuantizedTensor.from_blocks(format, torch.from_numpy(blocks), (rows, inputs))
        return weight, block_values(format, blocks)
    codes, scales, zeros = random_codes(format, rows, inputs, seed)
    weight = QuantizedTensor.from_codes(format, codes, scales, zeros)
    return weight, code_values(format, codes, scales, zeros)
