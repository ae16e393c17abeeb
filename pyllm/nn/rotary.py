"""Rotary position embedding tables (RoFormer, arXiv 2104.09864)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def inverse_frequencies(rotary_dim: int, theta: float = 10000.0) -> Tensor:
    """theta^(-2i / rotary_dim) for i < rotary_dim / 2: fp32, shape (rotary_dim / 2,), on the CPU."""
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device="cpu") / rotary_dim
    return 1.0 / (theta**exponents)


def llama3_frequencies(
    inverse: Tensor, factor: float, low_freq_factor: float, high_freq_factor: float, original_context: int
) -> Tensor:
    """Llama 3.1's stretching of `inverse` (rotary_dim / 2,).

    Wavelengths above original_context / low_freq_factor grow by `factor`, those below original_context /
    high_freq_factor stay, and between them the two are blended linearly in the number of turns per context.
    """
    turns = original_context * inverse / (2 * math.pi)
    keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return torch.lerp(inverse / factor, inverse, keep)


class RotaryEmbedding(torch.nn.Module):
    """Cosine and sine tables for `pyllm.ops.rope`, fp32 whatever the model's dtype.

    The tables are not part of the state: they are made on first use, on the device that asks, and double
    when a longer text comes. An entry depends on its position only, never on the length of the table.

    Args:
        inverse: (rotary_dim / 2,) fp32 inverse frequencies, see `inverse_frequencies`.
        factor: cosines and sines are multiplied by it (YaRN's attention factor).
    """

    def __init__(self, inverse: Tensor, factor: float = 1.0) -> None:
        super().__init__()
        self.inverse, self.factor = inverse, factor
        self._cos = self._sin = inverse.new_empty(0, inverse.shape[0])

    def forward(self, length: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Tables for positions below `length`: cos and sin, each (at least length, rotary_dim / 2)."""
        device = torch.device(device)
        if self._cos.shape[0] < length or self._cos.device != device:
            rows = max(256, 1 << (length - 1).bit_length())
            # Tables made in inference mode could not serve a later training step.
            with torch.inference_mode(False):
                positions = torch.arange(rows, dtype=torch.float32, device="cpu")
                angles = torch.outer(positions, self.inverse)
                self._cos, self._sin = (
                    (table * self.factor).to(device) for table in (angles.cos(), angles.sin())
                )
        return self._cos, self._sin
