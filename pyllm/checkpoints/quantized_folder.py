"""Quantized tensors of a Hugging Face folder as plain weights: several stored tensors become one, read when needed.

config.json's quantization_config says which layout; which modules have it is seen from the names that are there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pyllm.checkpoints.awq import read_awq
from pyllm.checkpoints.bitsandbytes import STATE, read_int8_rows, read_nf4, stored_shape
from pyllm.checkpoints.compressed_tensors import read_int8, read_packed
from pyllm.checkpoints.compressed_tensors import stored_shape as packed_shape
from pyllm.checkpoints.float8 import read_float8
from pyllm.checkpoints.gptq import read_gptq
from pyllm.checkpoints.gptq import stored_shape as gptq_shape
from pyllm.checkpoints.stored import StoredTensor
from pyllm.ops import QuantizedTensor

METHODS = ("gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8")


class QuantizedWeight(Protocol):
    """What the readers return."""

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """(out, in) in `dtype`."""

    def packed(self) -> QuantizedTensor:
        """For products; ValueError where there are no kernels."""


_Stored = dict[str, StoredTensor]


@dataclass(frozen=True)
class _Layout:
    """How one kind of quantized weight lies among the stored tensors of its module.

    Attributes:
        marker: the part that shows that a module has this layout.
        dtype: of the marker, None for any.
        parts: everything that belongs to it, the marker too.
        shape: (out, in), from the headers or small parts alone.
        read: the weight.
    """

    marker: str
    dtype: torch.dtype | None
    parts: tuple[str, ...]
    shape: Callable[[_Stored, str], tuple[int, int]]
    read: Callable[[_Stored, str], QuantizedWeight]


def merge_quantized(settings: Any, stored: _Stored) -> _Stored:
    """`stored` with the parts of every quantized weight replaced by one tensor "<module>.weight".

    Args:
        settings: config.json's quantization_config.

    Raises:
        ValueError: a method or layout that is not supported, or parts that do not fit together; names it.
    """
    if not isinstance(settings, dict) or settings.get("quant_method") not in METHODS:
        method = settings.get("quant_method") if isinstance(settings, dict) else settings
        raise ValueError(
            f"quantization_config: checkpoints quantized with {method!r} are not supported, expected one of {METHODS}"
        )
    merged = dict(stored)
    for layout in _layouts(settings):
        for name, tensor in stored.items():
            if name.endswith(f".{layout.marker}") and layout.dtype in (None, tensor.dtype):
                module = name.removesuffix(f".{layout.marker}")
                parts = [merged.pop(f"{module}.{part}", None) for part in layout.parts]
                nbytes = sum(part.nbytes for part in parts if part is not None)
                shape = layout.shape(stored, module)
                merged[f"{module}.weight"] = _merged(layout, stored, module, shape, nbytes)
    return merged


def _merged(
    layout: _Layout, stored: _Stored, module: str, shape: tuple[int, int], nbytes: int
) -> StoredTensor:
    def read(dtype: torch.dtype) -> Tensor:
        return layout.read(stored, module).dequantized(dtype)

    def quantized() -> QuantizedTensor:
        return layout.read(stored, module).packed()

    return StoredTensor(shape, None, nbytes, read, quantized)


def _layouts(settings: dict[str, Any]) -> list[_Layout]:
    method = settings["quant_method"]
    if method == "gptq":
        parts = ("qweight", "qzeros", "scales", "g_idx")
        return [
            _Layout(
                "qweight",
                None,
                parts,
                lambda stored, module: gptq_shape(stored, module, settings),
                lambda stored, module: read_gptq(stored, module, settings),
            )
        ]
    if method == "awq":
        return [
            _Layout(
                "qweight",
                None,
                ("qweight", "qzeros", "scales"),
                lambda stored, module: _awq_shape(stored, module),
                lambda stored, module: read_awq(stored, module, settings),
            )
        ]
    if method == "bitsandbytes":
        companions = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", STATE)
        nf4 = ("weight", *(f"weight.{part}" for part in companions))
        rows = ("weight", "SCB", "weight_format")
        return [
            _Layout(f"weight.{STATE}", None, nf4, stored_shape, read_nf4),
            _Layout("SCB", None, rows, _plain_shape, read_int8_rows),
        ]
    if method == "fp8":
        block = _block(settings.get("weight_block_size"))
        return [_float8(block)]
    return _compressed(settings)


def _compressed(settings: dict[str, Any]) -> list[_Layout]:
    form = settings.get("format")
    known = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
    if form not in known:
        raise ValueError(f"compressed-tensors format {form!r} is not supported, expected one of {known}")
    packed = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")
    plain = ("weight", "weight_scale", "weight_zero_point")
    return [
        _Layout("weight_packed", None, packed, packed_shape, read_packed),
        _Layout("weight", torch.int8, plain, _plain_shape, read_int8),
        _float8(None),
    ]


def _float8(block: tuple[int, int] | None) -> _Layout:
    parts = ("weight", "weight_scale", "weight_scale_inv", "input_scale")
    dtype = torch.float8_e4m3fn
    return _Layout(
        "weight", dtype, parts, _plain_shape, lambda stored, module: read_float8(stored, module, block)
    )


def _block(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(v) is int and v > 0 for v in value):
        raise ValueError(f"weight_block_size must be two positive integers, got {value!r}")
    return value[0], value[1]


def _plain_shape(stored: _Stored, module: str) -> tuple[int, int]:
    tensor = stored.get(f"{module}.weight")
    if tensor is None or len(tensor.shape) != 2:
        raise ValueError(f"'{module}.weight' must be there and have two dimensions")
    return tensor.shape[0], tensor.shape[1]


def _awq_shape(stored: _Stored, module: str) -> tuple[int, int]:
    shape = stored[f"{module}.qweight"].shape
    if len(shape) != 2:
        raise ValueError(f"'{module}.qweight' must have two dimensions, got shape {shape}")
    return shape[1] * 8, shape[0]
