"""Quantizing weights without data: rounding to the nearest into the formats that pyllm.ops computes on."""

from __future__ import annotations

from pyllm.quantization.folder import save_quantized
from pyllm.quantization.gguf_blocks import GGUF_FORMATS, quantize_gguf
from pyllm.quantization.gguf_file import quantize_gguf_file, save_gguf
from pyllm.quantization.quantize import quantize, quantize_network
from pyllm.quantization.rotation import rotated

__all__ = [
    "GGUF_FORMATS",
    "quantize",
    "quantize_gguf",
    "quantize_gguf_file",
    "quantize_network",
    "rotated",
    "save_gguf",
    "save_quantized",
]
