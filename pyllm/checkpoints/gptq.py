"""GPTQ checkpoints, as GPTQModel, AutoGPTQ and transformers write them.

    qweight (in * bits / 32, out) int32   codes, packed along in, low bits first
    qzeros  (groups, out * bits / 32)     zeros, packed along out; version 1 stores them less one, modulo 2^bits
    scales  (groups, out) float
    g_idx   (in,) int32                   group of each input; absent: equal runs

weight[o, i] = (code - zero) * scale.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from pyllm.checkpoints.integer_weight import (
    BITS,
    IntegerWeight,
    checked_groups,
    equal_groups,
    stored_part,
    stored_scales,
    unpack_bits,
)
from pyllm.checkpoints.stored import StoredTensor

_VERSIONS = {"gptq": 1, "gptq_v2": 2}


def read_gptq(stored: dict[str, StoredTensor], module: str, settings: dict[str, Any]) -> IntegerWeight:
    """The weight of `module` ("model.layers.0.self_attn.q_proj").

    The number of bits follows from the shapes, so that files with bits per layer (`dynamic`) are read as well. Of a
    symmetric weight all zeros are 2^(bits - 1): where the values contradict the version in `settings`, the values are
    believed, with a warning.

    Raises:
        ValueError: a part is missing or of the wrong shape, or the layout is not supported; names it.
    """
    version = _version(settings)
    scales = stored_scales(stored, f"{module}.scales").t().contiguous()
    outputs, count = scales.shape
    packed = stored_part(stored, f"{module}.qweight", torch.int32, 2)
    inputs = stored_shape(stored, module, settings)[1]
    bits = packed.shape[0] * 32 // inputs
    if packed.shape[1] != outputs:
        raise ValueError(f"{module}.qweight has {packed.shape[1]} columns, its scales {outputs}")
    words = stored_part(stored, f"{module}.qzeros", torch.int32, 2)
    if words.shape != (count, -(-outputs * bits // 32)):
        raise ValueError(
            f"{module}.qzeros has shape {tuple(words.shape)} for {outputs} outputs, {count} groups"
        )
    zeros = unpack_bits(words, bits, outputs).t().contiguous()
    version = _believed_version(module, zeros, bits, version, bool(settings.get("sym", True)))
    if version == 1:
        zeros = zeros + 1 & (1 << bits) - 1
    groups = equal_groups(inputs, count, module)
    if f"{module}.g_idx" in stored:
        read = stored_part(stored, f"{module}.g_idx", torch.int32, 1).long()
        groups = checked_groups(read, inputs, count, f"{module}.g_idx")
    return IntegerWeight(unpack_bits(packed.t().contiguous(), bits, inputs), scales, zeros, bits, groups)


def stored_shape(stored: dict[str, StoredTensor], module: str, settings: dict[str, Any]) -> tuple[int, int]:
    """(out, in) from the headers: g_idx has one entry per input, without it the bits are `settings`'."""
    shape, g_idx = stored[f"{module}.qweight"].shape, stored.get(f"{module}.g_idx")
    if len(shape) != 2:
        raise ValueError(f"'{module}.qweight' must have two dimensions, got shape {shape}")
    bits = settings.get("bits")
    if g_idx is not None and len(g_idx.shape) == 1 and g_idx.shape[0]:
        bits, rest = divmod(shape[0] * 32, g_idx.shape[0])
        if rest:
            raise ValueError(f"{module}.qweight has {shape[0]} rows for {g_idx.shape[0]} inputs")
    if bits not in BITS or shape[0] * 32 % bits:
        raise ValueError(
            f"{module}: GPTQ with {bits} bits in {shape[0]} words is not supported, bits must be one of {BITS}"
        )
    return shape[1], shape[0] * 32 // bits


def _version(settings: dict[str, Any]) -> int:
    form = settings.get("checkpoint_format", "gptq")
    if form not in _VERSIONS:
        raise ValueError(
            f"GPTQ checkpoint_format {form!r} is not supported, expected one of {list(_VERSIONS)}"
        )
    if settings.get("pack_dtype", "int32") != "int32":
        raise ValueError(f"GPTQ pack_dtype {settings['pack_dtype']!r} is not supported, expected 'int32'")
    return _VERSIONS[form]


def _believed_version(module: str, stored_zeros: Tensor, bits: int, version: int, symmetric: bool) -> int:
    middle = 1 << bits - 1
    if not symmetric or not stored_zeros.numel():
        return version
    first = int(stored_zeros[0, 0])
    if first not in (middle, middle - 1) or bool((stored_zeros != first).any()):
        return version
    seen = 2 if first == middle else 1
    if seen != version:
        warnings.warn(
            f"{module}: the file is labelled GPTQ version {version}, but its zeros are those of version {seen}; "
            "reading it as that",
            stacklevel=2,
        )
    return seen
