"""Rotary frequencies stretched beyond the trained context: the published kinds of RoPE scaling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyllm.models.checks import check_counts, check_flags, check_numbers, check_positive
from pyllm.nn.rotary import RotaryEmbedding, inverse_frequencies, llama3_frequencies

ROPE_SCALING_KINDS = ("linear", "dynamic", "yarn", "llama3", "longrope")


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context.

    Attributes:
        kind: "linear" (position interpolation, arXiv 2306.15595); "dynamic" (NTK-aware, the base grows with a text
            that is longer than `max_position_embeddings`); "yarn" (arXiv 2309.00071); "llama3" (by wavelength,
            Llama 3.1); "longrope" (a factor per frequency, one set for texts up to the original context and one for
            longer ones, arXiv 2402.13753; Phi-3 calls it "su").
        factor: low frequencies are divided by it; for "longrope" it sets the attention factor alone.
        low_freq_factor, high_freq_factor: "llama3"; wavelengths above original / low are stretched in full, those
            below original / high are left alone.
        original_max_position_embeddings: the context before stretching; "llama3", "yarn" and "longrope".
        attention_factor: cosines and sines are multiplied by it; "yarn" and "longrope", whose papers' value stands in
            for None.
        beta_fast, beta_slow, truncate: "yarn"; frequencies that turn more than beta_fast times in the original context
            are left alone, those below beta_slow turns are stretched in full; `truncate` rounds the borders outwards.
        short_factors, long_factors: "longrope"; what each frequency is divided by, (rotary_dim / 2,).
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ROPE_SCALING_KINDS:
            raise ValueError(
                f"rope scaling {self.kind!r} is not supported, expected one of {ROPE_SCALING_KINDS}"
            )
        check_positive(self, "factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow")
        check_counts(self, "original_max_position_embeddings")
        check_flags(self, "truncate")
        if self.attention_factor is not None:
            check_positive(self, "attention_factor")
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor must exceed low_freq_factor ({self.low_freq_factor}), "
                f"got {self.high_freq_factor}"
            )
        for name in ("short_factors", "long_factors"):
            check_numbers(self, name)
        if len(self.short_factors) != len(self.long_factors):
            raise ValueError(
                f"long_factors must be as many as short_factors ({len(self.short_factors)}), "
                f"got {len(self.long_factors)}"
            )

    @property
    def table_factor(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.kind not in ("yarn", "longrope") or self.factor <= 1:
            return 1.0
        if self.kind == "yarn":
            return 0.1 * math.log(self.factor) + 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_max_position_embeddings))


def rotary_embedding(
    rotary_dim: int, theta: float, scaling: RopeScaling | None, max_positions: int
) -> RotaryEmbedding | LengthDependentRotary:
    """Tables for heads whose first `rotary_dim` components are rotated.

    Args:
        max_positions: the model's `max_position_embeddings`.
    """
    if scaling is not None and scaling.kind in ("dynamic", "longrope"):
        return LengthDependentRotary(rotary_dim, theta, scaling, max_positions)
    inverse = inverse_frequencies(rotary_dim, theta)
    if scaling is None:
        return RotaryEmbedding(inverse)
    return RotaryEmbedding(scaled_frequencies(inverse, theta, scaling), scaling.table_factor)


def scaled_frequencies(inverse: Tensor, theta: float, scaling: RopeScaling) -> Tensor:
    """Inverse frequencies (rotary_dim / 2,) of base `theta` as "linear", "llama3" or "yarn" stretches them."""
    if scaling.kind == "linear":
        return inverse / scaling.factor
    if scaling.kind == "yarn":
        return _yarn_frequencies(inverse, theta, scaling)
    return llama3_frequencies(
        inverse,
        scaling.factor,
        scaling.low_freq_factor,
        scaling.high_freq_factor,
        scaling.original_max_position_embeddings,
    )


class LengthDependentRotary(torch.nn.Module):
    """Tables whose frequencies depend on how long the longest text of a batch is: "dynamic" and "longrope".

    With these a token's rotation is not a function of its position alone: keys that a cache stored while the text was
    short keep the rotation they had, as in transformers.
    """

    def __init__(self, rotary_dim: int, theta: float, scaling: RopeScaling, max_positions: int) -> None:
        super().__init__()
        self.rotary_dim, self.theta, self.scaling, self.max_positions = (
            rotary_dim,
            theta,
            scaling,
            max_positions,
        )
        self._original = scaling.original_max_position_embeddings
        if scaling.kind == "longrope":
            self.short, self.long = (
                self._divided(factors) for factors in (scaling.short_factors, scaling.long_factors)
            )
        else:
            self.short = self.long = RotaryEmbedding(inverse_frequencies(rotary_dim, theta))
            self._long_length = 0

    def forward(self, length: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Tables for a batch whose longest text has `length` tokens: cos and sin, (at least length, rotary_dim / 2)."""
        if self.scaling.kind == "longrope":
            return (self.long if length > self._original else self.short)(length, device)
        if length <= self.max_positions:
            return self.short(length, device)
        if length != self._long_length:
            self.long, self._long_length = self._grown(length), length
        return self.long(length, device)

    def _divided(self, factors: tuple[float, ...]) -> RotaryEmbedding:
        exponents = torch.arange(0, self.rotary_dim, 2, dtype=torch.float32) / self.rotary_dim
        inverse = 1.0 / (torch.tensor(factors) * self.theta**exponents)
        return RotaryEmbedding(inverse, self.scaling.table_factor)

    def _grown(self, length: int) -> RotaryEmbedding:
        factor, dim = self.scaling.factor, self.rotary_dim
        growth = factor * length / self.max_positions - (factor - 1)
        return RotaryEmbedding(inverse_frequencies(dim, self.theta * growth ** (dim / (dim - 2))))


def _yarn_frequencies(inverse: Tensor, theta: float, scaling: RopeScaling) -> Tensor:
    """Stretched in full below beta_slow turns per original context, left alone above beta_fast, blended between."""
    pairs = inverse.shape[0]

    def pair_that_turns(times: float) -> float:
        wavelength = scaling.original_max_position_embeddings / times
        return pairs * math.log(wavelength / (2 * math.pi)) / math.log(theta)

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    # Clamped to the whole rotary width, not to the pairs, as in the paper's code.
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    width = high - low if high != low else 0.001
    stretch = ((torch.arange(pairs, dtype=torch.float32) - low) / width).clamp(0, 1)
    return inverse / scaling.factor * stretch + inverse * (1 - stretch)
