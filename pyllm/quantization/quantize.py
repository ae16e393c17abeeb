"""One name per format: a weight, rounded to the nearest, ready for `pyllm.ops.quantized_linear`."""

from __future__ import annotations

import itertools
import re

import torch
from torch import Tensor

from pyllm.checkpoints.bitsandbytes import NF4_VALUES, NF4Weight
from pyllm.checkpoints.float8 import Float8Weight
from pyllm.checkpoints.integer_weight import IntegerWeight
from pyllm.checkpoints.quantized_parts import quantize_absmax
from pyllm.models.transformer import Transformer
from pyllm.nn.quantized import QuantizedLinear
from pyllm.ops import QuantizedTensor
from pyllm.quantization.gguf_blocks import GGUF_FORMATS, quantize_gguf
from pyllm.quantization.integers import quantize_integers

_INTEGERS = re.compile(r"int([48])(?:_g(32|64|128))?(_zp)?")
NF4_BLOCK = 64
_FLOAT8_MOST = 448.0


def quantize(weight: Tensor, format: str) -> QuantizedTensor:
    """`weight` (out, in) in `format`, without data: rounded to the nearest.

    Args:
        format: a GGUF type in any case ("q4_k", "q8_0", "iq4_nl", "mxfp4" ...); "int8" or "int4" with one scale per
            row, or per 32, 64 or 128 inputs ("int4_g128"), "_zp" with zero points ("int4_g32_zp"); "nf4" with scales
            quantized to 8 bits; "fp8_e4m3" with one scale per row.

    Raises:
        ValueError: an unknown format, a shape that it cannot hold, or values that are not finite.
    """
    if format.upper() in GGUF_FORMATS:
        name = format.upper()
        return QuantizedTensor.from_blocks(
            name, quantize_gguf(weight, name), (weight.shape[0], weight.shape[1])
        )
    _check(weight)
    if _INTEGERS.fullmatch(format):
        return quantize_to_integers(weight, format).packed()
    if format == "nf4":
        return quantize_nf4(weight).packed()
    if format == "fp8_e4m3":
        return _float8(weight).packed()
    known = (*(name.lower() for name in GGUF_FORMATS), "int8", "int4", "int4_g128", "nf4", "fp8_e4m3")
    raise ValueError(f"format must be one of {', '.join(known)}, got {format!r}")


def quantize_to_integers(weight: Tensor, format: str) -> IntegerWeight:
    """As `quantize` for the integer formats, with codes and scales apart."""
    match = _INTEGERS.fullmatch(format)
    if match is None:
        raise ValueError(
            f"format must be int4 or int8 with _g32, _g64, _g128 and _zp after it, got {format!r}"
        )
    _check(weight)
    group = None if match[2] is None else int(match[2])
    if group is not None and weight.shape[1] % group:
        raise ValueError(f"weight has {weight.shape[1]} inputs, no multiple of the group of {format!r}")
    return quantize_integers(weight, int(match[1]), group, symmetric=match[3] is None)


def quantize_nf4(weight: Tensor) -> NF4Weight:
    """weight (out, in) as NF4 in blocks of 64 inputs; absmax is rounded to what double quantization keeps of it."""
    _check(weight)
    outputs, inputs = weight.shape
    if inputs % NF4_BLOCK:
        raise ValueError(f"weight has {inputs} inputs, no multiple of nf4's {NF4_BLOCK}")
    blocks = weight.detach().float().reshape(-1, NF4_BLOCK)
    absmax = blocks.abs().amax(1)
    borders = torch.tensor([(a + b) / 2 for a, b in itertools.pairwise(NF4_VALUES)])
    normalized = blocks / torch.where(absmax > 0, absmax, 1.0)[:, None]
    codes = torch.bucketize(normalized, borders).to(torch.uint8)
    nested = quantize_absmax(absmax)
    kept = nested.dequantized().view(outputs, -1)
    return NF4Weight(codes.view(outputs, inputs), kept, NF4_BLOCK, nested)


def quantize_network(network: Transformer, format: str) -> None:
    """Replaces every linear layer of the decoder's blocks by one on its weight in `format`; the rest stays.

    Raises:
        ValueError: as `quantize`; names the layer. The network is as it was then.
    """
    layers = {}
    for name, module in network.model.layers.named_modules():
        if isinstance(module, torch.nn.Linear):
            try:
                layers[name] = QuantizedLinear(quantize(module.weight, format), module.bias)
            except ValueError as error:
                raise ValueError(f"model.layers.{name}: {error}") from None
    for name, layer in layers.items():
        network.model.layers.set_submodule(name, layer)


def _float8(weight: Tensor) -> Float8Weight:
    largest = weight.detach().float().abs().amax(1, keepdim=True)
    scales = torch.where(largest > 0, largest / _FLOAT8_MOST, 1.0)
    return Float8Weight((weight.float() / scales).to(torch.float8_e4m3fn), scales, weight.shape[1])


def _check(weight: Tensor) -> None:
    if weight.dim() != 2:
        raise ValueError(f"weight must have shape (out, in), got {tuple(weight.shape)}")
    if not bool(weight.isfinite().all()):
        raise ValueError("weight holds values that are not finite")
