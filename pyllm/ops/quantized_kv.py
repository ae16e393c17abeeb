"""Codes of a quantized KV cache in plain torch: the layout and arithmetic of csrc/ops/attention/quantized_kv.h.

int8   code * scale             a key has one scale, a value has one
int4   code * step + smallest   each run of 32 elements has its own pair of bfloat16 numbers
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KV_QUANTIZATIONS = ("int8", "int4")
_GROUP = 16  # keys side by side in a page
_RUN = 32  # elements that share an int4 scale


def check_quantization(quantization: str | None) -> None:
    """Raises ValueError for an unknown kind."""
    if quantization is not None and quantization not in KV_QUANTIZATIONS:
        raise ValueError(
            f"PagedKVCache: quantization must be None or one of {KV_QUANTIZATIONS}, got {quantization!r}"
        )


@dataclass(frozen=True)
class Layout:
    """Where a page's bytes lie."""

    quantization: str
    page_size: int
    head_dim: int
    value_dim: int

    @property
    def _halves(self) -> bool:
        return self.quantization == "int4"

    @property
    def _depths(self) -> tuple[int, int]:
        """head_dim and value_dim with their padding."""
        if self._halves:
            return -(-self.head_dim // 2) * 2, -(-self.value_dim // _RUN) * _RUN
        return self.head_dim, -(-self.value_dim // 16) * 16

    def _runs(self, dim: int) -> int:
        return -(-dim // _RUN) if self._halves else 1

    def _run_of(self, d: Tensor) -> Tensor:
        return d // _RUN if self._halves else torch.zeros_like(d)

    @property
    def _starts(self) -> tuple[int, int, int, int]:
        """First byte of: values, the keys' scales, the values' scales, behind the page."""
        per_byte = 2 if self._halves else 1
        values, scales = (self.page_size * depth // per_byte for depth in self._depths)
        key_scales, value_scales = (
            4 * self.page_size * self._runs(dim) for dim in (self.head_dim, self.value_dim)
        )
        return (
            values,
            values + scales,
            values + scales + key_scales,
            values + scales + key_scales + value_scales,
        )

    @property
    def bytes(self) -> int:
        """Of a page."""
        return self._starts[-1]

    def _key_places(self, token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(tokens, head_dim): byte of each code, its shift, first byte of its scale."""
        d, token = torch.arange(self.head_dim), token[:, None]
        group, column = token // _GROUP * _GROUP, token % _GROUP
        scale = self._starts[1] + 4 * (group * self._runs(self.head_dim) + self._run_of(d) * _GROUP + column)
        if self._halves:
            return (
                group * self._depths[0] // 2 + d // 2 * _GROUP + column,
                (d % 2 * 4).expand_as(scale),
                scale,
            )
        return group * self._depths[0] + d * _GROUP + column, torch.zeros_like(scale), scale

    def _value_places(self, token: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same of values."""
        d, token = torch.arange(self.value_dim), token[:, None]
        scale = self._starts[2] + 4 * (token * self._runs(self.value_dim) + self._run_of(d))
        if self._halves:
            row = self._starts[0] + token * self._depths[1] // 2
            return row + d // _RUN * 16 + d % 16, (d % _RUN // 16 * 4).expand_as(scale), scale
        return self._starts[0] + token * self._depths[1] + d, torch.zeros_like(scale), scale

    def write(self, data: Tensor, page: Tensor, token: Tensor, k: Tensor, v: Tensor) -> None:
        """k, v (tokens, kv_heads, dim) to `token` of `page`, both (tokens,)."""
        if not len(token):
            return
        for x, places in ((k, self._key_places), (v, self._value_places)):
            codes, scales = self._quantize(x.float())
            byte, shift, scale = (place[:, None] for place in places(token))
            pages, heads = page[:, None, None], torch.arange(data.shape[1])[:, None]
            if self._halves:
                for half in (0, 4):
                    chosen = shift[0, 0] == half
                    at = pages, heads, byte[..., chosen]
                    data[at] = data[at] & (0xF0 >> half) | codes[..., chosen] << half
            else:
                data[pages, heads, byte] = codes
            for i in range(4):
                data[pages, heads, scale + i] = (scales >> 8 * i & 0xFF).to(torch.uint8)

    def read(self, data: Tensor, page: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (kv_heads, tokens, dim), float32."""
        keys = self._dequantize(data, page, self._key_places(token))
        return keys, self._dequantize(data, page, self._value_places(token))

    def _dequantize(self, data: Tensor, page: Tensor, places: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        byte, shift, scale = places
        pages, heads = page[None, :, None], torch.arange(data.shape[1])[:, None, None]
        codes, word = data[pages, heads, byte], torch.zeros(scale.shape, dtype=torch.int64)
        for i in range(4):
            word = word | data[pages, heads, scale + i].to(torch.int64) << 8 * i
        if not self._halves:
            return codes.view(torch.int8).float() * _floats(word)
        return (codes >> shift & 15).float() * _floats(word & 0xFFFF0000) + _floats(word << 16 & 0xFFFF0000)

    def _quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (..., dim) -> codes as uint8, and each element's scale as a word of 32 bits in int64."""
        if not self._halves:
            step = x.abs().amax(-1, keepdim=True) / 127
            step = torch.where(x.isfinite().all(-1, keepdim=True), step, torch.nan)
            codes = torch.where(step > 0, torch.round(x / step), 0).to(torch.int8)
            return codes.view(torch.uint8), _words(step).expand_as(x)
        runs = [_quantize_run(run) for run in x.split(_RUN, -1)]
        return torch.cat([codes for codes, _ in runs], -1), torch.cat([words for _, words in runs], -1)


def _quantize_run(x: Tensor) -> tuple[Tensor, Tensor]:
    smallest = _bfloat16_below(x.amin(-1, keepdim=True))
    step = -_bfloat16_below(-(x.amax(-1, keepdim=True) - smallest) / 15)
    finite = x.isfinite().all(-1, keepdim=True)
    smallest, step = torch.where(finite, smallest, 0), torch.where(finite, step, torch.nan)
    codes = torch.where(step > 0, torch.round((x - smallest) / step).clamp(max=15), 0).to(torch.uint8)
    return codes, (_words(step) | _words(smallest) >> 16).expand_as(x)


def _bfloat16_below(x: Tensor) -> Tensor:
    """The nearest bfloat16 that is not above x."""
    kept = _words(x) & 0xFFFF0000
    return _floats(torch.where((x < 0) & (kept != _words(x)), kept + 0x10000, kept))


def _words(x: Tensor) -> Tensor:
    """Bits of float32 as int64 in [0, 2^32)."""
    return x.contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF


def _floats(words: Tensor) -> Tensor:
    signed = torch.where(words >= 1 << 31, words - (1 << 32), words)
    return signed.to(torch.int32).view(torch.float32)
