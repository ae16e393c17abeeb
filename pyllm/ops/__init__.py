"""Fused operators: each has compiled kernels, a plain-torch reference, a fake kernel, autograd and an autocast rule."""

from pyllm.ops.adamw import adamw_step, adamw_steps
from pyllm.ops.attention import attention
from pyllm.ops.decoder_step import DecoderLayerTensors, DecoderNetwork, decoder_step
from pyllm.ops.gradient_norm import gradient_norm
from pyllm.ops.grouped_linear import grouped_linear
from pyllm.ops.layer_norm import layer_norm
from pyllm.ops.linear import linear
from pyllm.ops.linear_cross_entropy import linear_cross_entropy
from pyllm.ops.llm_int8_linear import llm_int8_linear
from pyllm.ops.packed_weights import keep_packed_weights
from pyllm.ops.paged_attention import PagedKVCache, paged_attention, write_kv
from pyllm.ops.quantized_linear import quantized_linear
from pyllm.ops.quantized_tensor import QuantizedTensor
from pyllm.ops.rms_norm import rms_norm
from pyllm.ops.rope import rope
from pyllm.ops.sample import sample
from pyllm.ops.swiglu import activate, glu, swiglu

__all__ = [
    "DecoderLayerTensors",
    "DecoderNetwork",
    "PagedKVCache",
    "QuantizedTensor",
    "activate",
    "adamw_step",
    "adamw_steps",
    "attention",
    "decoder_step",
    "glu",
    "gradient_norm",
    "grouped_linear",
    "keep_packed_weights",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "llm_int8_linear",
    "paged_attention",
    "quantized_linear",
    "rms_norm",
    "rope",
    "sample",
    "swiglu",
    "write_kv",
]
