"""Quantizing weights without data: rounding to the nearest into the formats that pyllm.ops computes on."""

from __future__ import annotations

from pyllm.quantization.gguf_blocks import GGUF_FORMATS, quantize_gguf

__all__ = ["GGUF_FORMATS", "quantize_gguf"]
