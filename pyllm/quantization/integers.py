"""Integer codes with a scale (and zero) per row or group of inputs, rounded to the nearest."""

from __future__ import annotations

import torch
from torch import Tensor

from pyllm.checkpoints.integer_weight import IntegerWeight, equal_groups

# Shares of a group's range that the codes may cover: clipping a few large weights pays where codes are few.
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)


def quantize_integers(weight: Tensor, bits: int, group: int | None, *, symmetric: bool) -> IntegerWeight:
    """weight (out, in) to codes of `bits` bits with the least squared error over a few scales per group.

    Args:
        group: inputs to a scale; None for one per row.
        symmetric: zeros are 2^(bits - 1), codes cover both signs alike.

    Returns:
        Scales are float16 in groups and float32 per row.
    """
    outputs, inputs = weight.shape
    count = 1 if group is None else inputs // group
    x = weight.detach().float().view(outputs, count, -1)
    best = torch.full((outputs, count), torch.inf)
    scales, zeros = torch.zeros(outputs, count), torch.zeros(outputs, count)
    for share in _SHARES if bits < 8 else (1.0,):
        scale, zero = _grid(x, bits, share, symmetric)
        if group is not None:
            scale = scale.half().float()
        values = (_codes(x, scale, zero, bits) - zero[..., None]) * scale[..., None]
        error = (values - x).square().sum(-1)
        better = error < best
        best = torch.where(better, error, best)
        scales, zeros = torch.where(better, scale, scales), torch.where(better, zero, zeros)
    codes = _codes(x, scales, zeros, bits).to(torch.uint8).view(outputs, inputs)
    stored = scales if group is None else scales.half()
    groups = equal_groups(inputs, count, "weight")
    return IntegerWeight(codes, stored, zeros.to(torch.uint8), bits, groups)


def _grid(x: Tensor, bits: int, share: float, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scales and zeros (out, groups) whose codes cover `share` of each group's range."""
    top = (1 << bits) - 1
    if symmetric:
        middle = torch.full(x.shape[:2], float(1 << bits - 1))
        return x.abs().amax(-1) * share / (top // 2), middle
    low, high = x.amin(-1).clamp(max=0) * share, x.amax(-1).clamp(min=0) * share
    scale = (high - low) / top
    return scale, (-low / torch.where(scale > 0, scale, 1.0)).round().clamp(0, top)


def _codes(x: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    return ((x * inverse[..., None]).round() + zero[..., None]).clamp(0, (1 << bits) - 1)
