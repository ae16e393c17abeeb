"""Decoders whose layers run as one call (`pyllm.ops.decoder_step`), and when.

In a step of a few tokens Python takes longer than the arithmetic of a small model: 18 of 29 ms in SmolLM2-135M. What
the op does not know (mixtures of experts, adapters, hooks, gradients) runs module by module, with the same bits.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyllm.models.config import ModelConfig
from pyllm.models.layers import DecoderLayer
from pyllm.models.transformer import Decoder
from pyllm.nn import MLP, Attention, GatedMLP, LayerNorm, Linear, RMSNorm
from pyllm.nn.quantized import QuantizedLinear
from pyllm.ops import (
    DecoderLayerTensors,
    DecoderNetwork,
    PagedKVCache,
    QuantizedTensor,
    _library,
    decoder_step,
)
from pyllm.ops.decoder_step import LinearLayer, Norm

# With more, Python's share is small, and `linear` has packed copies of float32 weights.
MAX_TOKENS = 64
_PLAIN = (Decoder, DecoderLayer, Attention, GatedMLP, MLP, Linear, QuantizedLinear, RMSNorm, LayerNorm)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@dataclass
class _Prepared:
    """A decoder as it was when it was looked at.

    Attributes:
        network: None where the op does not know all of it.
        places, names, parts: where the modules and tensors stand that a pass uses, and which they were.
        hooks: of the modules; none may have any.
    """

    network: DecoderNetwork | None
    places: Sequence[dict[str, Any]]
    names: Sequence[str]
    parts: Sequence[Any]
    hooks: Sequence[dict[int, Any]]

    def is_current(self) -> bool:
        # Without a line of Python for each of a thousand parts.
        return all(map(operator.is_, map(dict.get, self.places, self.names), self.parts))


_prepared: weakref.WeakKeyDictionary[Decoder, _Prepared] = weakref.WeakKeyDictionary()


def prepared_network(decoder: Decoder, config: ModelConfig) -> DecoderNetwork | None:
    """The decoder for `decoder_step`, made anew when a part of it was replaced; None where the op does not fit."""
    prepared = _prepared.get(decoder)
    if prepared is None or not prepared.is_current():
        modules = [decoder, *decoder.layers.modules(), decoder.norm]
        fits = (
            type(decoder) is Decoder
            and all(map(_is_plain, modules[1:]))
            and not any(map(_is_permuted, modules))
        )
        network = _describe(decoder, config) if fits else None
        hooks = [module.__dict__[name] for module in modules for name in _HOOKS]
        places, names, parts = zip(*_parts(modules), strict=True)
        prepared = _prepared[decoder] = _Prepared(network, places, names, parts, hooks)
    return None if any(prepared.hooks) else prepared.network


def whole_step(
    decoder: Decoder,
    config: ModelConfig,
    input_ids: Tensor,
    position_ids: Tensor,
    max_position: int,
    caches: Sequence[PagedKVCache],
    block_tables: Sequence[Tensor],
    lengths: Tensor,
    cu_seqlens_q: Tensor,
    prefix_lengths: Tensor | None,
) -> Tensor | None:
    """Hidden states (tokens, hidden_size), see `paged_hidden_states`; None where the op does not fit."""
    if not 0 < len(input_ids) <= MAX_TOKENS or not _is_plain_call(input_ids):
        return None
    network = prepared_network(decoder, config)
    if network is None:
        return None
    x = decoder.embed(input_ids[None], position_ids[None], max_position)[0]
    if any(cache.data.dtype != x.dtype or cache.page_size != caches[0].page_size for cache in caches):
        return None
    tables: list[Tensor] = []
    if decoder.rotary is not None:
        angles, local_angles = decoder.angles(max_position, x.device)
        tables = [*angles, *local_angles]
        if x.dtype == torch.float64:
            tables = [table.double() for table in tables]
    return decoder_step(
        x,
        network,
        caches,
        tables,
        position_ids,
        block_tables,
        lengths,
        cu_seqlens_q,
        prefix_lengths=prefix_lengths,
    )


def _is_plain_call(x: Tensor) -> bool:
    return (
        _library.LOADED
        and x.is_cpu
        and not torch.is_grad_enabled()
        and _library.plain_eager()
        and not torch.nn.modules.module._has_any_global_hook()
    )


def _is_plain(module: nn.Module) -> bool:
    parameters = (p for p in module._parameters.values() if p is not None)
    return (
        type(module) in (*_PLAIN, nn.ModuleList)
        and "forward" not in module.__dict__
        and all(type(p) is nn.Parameter for p in parameters)
    )


def _is_permuted(module: nn.Module) -> bool:
    return isinstance(module, QuantizedLinear) and module.weight.permutation is not None


def _parts(modules: Sequence[nn.Module]) -> Iterator[tuple[dict[str, Any], str, Any]]:
    for module in modules:
        for place in (module._modules, module._parameters):
            yield from ((place, name, part) for name, part in place.items())
        yield (
            module.__dict__,
            "forward",
            module.__dict__.get("forward"),
        )  # put there by others, of this module alone
        if isinstance(module, QuantizedLinear):
            yield module.__dict__, "weight", module.weight


def _describe(decoder: Decoder, config: ModelConfig) -> DecoderNetwork:
    return DecoderNetwork(
        [_layer(layer) for layer in decoder.layers],  # type: ignore[arg-type]
        _norm(decoder.norm),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        eps=config.rms_norm_eps,
        norm_offset=config.norm_weight_offset,
        layer_norm=config.norm == "layer_norm",
        activation=config.hidden_act,
        scale=config.attention_scale,
        softcap=config.attention_softcap,
        parallel_block=config.parallel_block,
        interleaved=config.rope_interleaved,
    )


def _layer(layer: DecoderLayer) -> DecoderLayerTensors:
    attention, mlp = layer.self_attn, layer.mlp
    before_attention, before_mlp, after_attention, after_mlp = (
        (layer.input_layernorm, None, None, None) if layer.is_parallel else layer._norms()
    )
    return DecoderLayerTensors(
        _norm(before_attention),
        _optional_norm(attention.q_norm),
        _optional_norm(attention.k_norm),
        _optional_norm(after_attention),
        _optional_norm(before_mlp),
        _optional_norm(after_mlp),
        _linear(attention.q_proj),
        _linear(attention.k_proj),
        _linear(attention.v_proj),
        _linear(attention.o_proj),
        _linear(mlp.gate_proj) if isinstance(mlp, GatedMLP) else None,
        _linear(mlp.up_proj),
        _linear(mlp.down_proj),
        attention.window,
    )


def _norm(module: Any) -> Norm:
    return module.weight, getattr(module, "bias", None)


def _optional_norm(module: Any) -> Norm | None:
    return _norm(module) if isinstance(module, nn.Module) else None


def _linear(module: Any) -> LinearLayer:
    weight: Tensor | QuantizedTensor = module.weight
    return weight, module.bias
