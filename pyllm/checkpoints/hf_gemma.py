"""What is Gemma 2's and Gemma 3's own in config.json, with the defaults of transformers for absent keys."""

from __future__ import annotations

import math
from typing import Any

from pyllm.models.config import ModelConfig

GLOBAL_ROPE_THETA = 1e6
LOCAL_ROPE_THETA = 1e4
# Of so many layers in a row the last one attends to everything.
LAYERS_PER_PATTERN = 6

_GEMMA2_DEFAULTS = {
    "head_dim": 256,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
_GEMMA3_DEFAULTS = {
    "head_dim": 256,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "rope_theta": GLOBAL_ROPE_THETA,
    "rope_local_base_freq": LOCAL_ROPE_THETA,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}


def gemma_architecture(hidden_size: int) -> dict[str, Any]:
    """The fields of `ModelConfig` in which every Gemma 2 and 3 differs from LLaMA."""
    return {
        "norm_weight_offset": 1.0,
        "sandwich_norms": True,
        "embedding_scale": math.sqrt(hidden_size),
    }


def gemma_layer_types(layers: int, pattern: int) -> tuple[str, ...]:
    """Sliding attention but in every `pattern`-th layer."""
    kinds = (
        "full_attention" if (layer + 1) % pattern == 0 else "sliding_attention" for layer in range(layers)
    )
    return tuple(kinds)


def with_gemma3_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with absent keys filled in and the two RoPE tables of transformers 5 in the flat keys of 4.

    Raises:
        ValueError: an option that is not supported; names it.
    """
    filled = _GEMMA3_DEFAULTS | {key: value for key, value in data.items() if value is not None}
    tables = filled.pop("rope_parameters", None)
    if isinstance(tables, dict) and all(isinstance(table, dict) for table in tables.values()):
        local = tables.get("sliding_attention", {})
        if local.get("rope_type", "default") != "default":
            raise ValueError(
                f"rope_parameters: sliding_attention must not be scaled, got {local['rope_type']!r}"
            )
        filled["rope_local_base_freq"] = local.get("rope_theta", LOCAL_ROPE_THETA)
        filled["rope_parameters"] = {"rope_theta": GLOBAL_ROPE_THETA} | tables.get("full_attention", {})
    elif tables is not None:
        raise ValueError("rope_parameters must have the tables full_attention and sliding_attention")
    if filled.get("attn_logit_softcapping"):
        raise ValueError(
            f"attn_logit_softcapping is not supported for Gemma 3, got {filled['attn_logit_softcapping']!r}"
        )
    _refuse_bidirectional(filled)
    return filled


def gemma3_options(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """Fields of `ModelConfig` from `with_gemma3_defaults`' data."""
    pattern = data.get("sliding_window_pattern", LAYERS_PER_PATTERN)
    if not isinstance(pattern, int) or pattern < 1:
        raise ValueError(f"sliding_window_pattern must be a positive integer, got {pattern!r}")
    return _shared_options(data, layers, pattern) | {
        "qk_norm": True,
        "local_rope_theta": data["rope_local_base_freq"],
    }


def gemma3_keys(config: ModelConfig) -> dict[str, Any]:
    """config.json's keys beyond those of every family."""
    return _shared_keys(config) | {"rope_local_base_freq": config.local_rope_theta}


def with_gemma2_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with absent keys filled in. Raises ValueError for an option that is not supported."""
    filled = _GEMMA2_DEFAULTS | {key: value for key, value in data.items() if value is not None}
    # A cap that is null is none; one that is absent has its default.
    for key, default in (("final_logit_softcapping", 30.0), ("attn_logit_softcapping", 50.0)):
        filled[key] = data.get(key, default)
    _refuse_bidirectional(filled)
    return filled


def gemma2_options(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """Fields of `ModelConfig` from `with_gemma2_defaults`' data: every second layer attends to everything."""
    return _shared_options(data, layers, 2)


def gemma2_keys(config: ModelConfig) -> dict[str, Any]:
    """config.json's keys beyond those of every family."""
    return _shared_keys(config)


def _shared_options(data: dict[str, Any], layers: int, pattern: int) -> dict[str, Any]:
    bias, scalar = bool(data.get("attention_bias", False)), data["query_pre_attn_scalar"]
    if isinstance(scalar, bool) or not isinstance(scalar, (int, float)) or scalar <= 0:
        raise ValueError(f"query_pre_attn_scalar must be a positive number, got {scalar!r}")
    return gemma_architecture(data["hidden_size"]) | {
        "attention_bias": bias,
        "attention_output_bias": bias,
        # None is the same scale, and what a Gemma 3 was before it could have another one.
        "attention_scale": None if scalar == data["head_dim"] else scalar**-0.5,
        "attention_softcap": data.get("attn_logit_softcapping"),
        "logit_softcap": data.get("final_logit_softcapping"),
        "sliding_window": data["sliding_window"],
        "layer_types": tuple(data.get("layer_types") or gemma_layer_types(layers, pattern)),
    }


def _shared_keys(config: ModelConfig) -> dict[str, Any]:
    scale = config.attention_scale
    return {
        "attention_bias": config.attention_bias,
        "query_pre_attn_scalar": config.head_dim if scale is None else round(scale**-2),
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
        "sliding_window": config.sliding_window,
        "layer_types": list(config.layer_types or ("sliding_attention",) * config.num_hidden_layers),
    }


def _refuse_bidirectional(data: dict[str, Any]) -> None:
    if data.get("use_bidirectional_attention"):
        raise ValueError(
            f"use_bidirectional_attention is not supported, got {data['use_bidirectional_attention']!r}"
        )
