"""What is Gemma 3's own in config.json, with the defaults of transformers' `Gemma3TextConfig` for absent keys."""

from __future__ import annotations

import math
from typing import Any

from pyllm.models.config import ModelConfig

GLOBAL_ROPE_THETA = 1e6
LOCAL_ROPE_THETA = 1e4
# Of so many layers in a row the last one attends to everything.
LAYERS_PER_PATTERN = 6

_DEFAULTS = {
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
    """The fields of `ModelConfig` in which every Gemma 3 differs from LLaMA."""
    return {
        "qk_norm": True,
        "norm_weight_offset": 1.0,
        "sandwich_norms": True,
        "embedding_scale": math.sqrt(hidden_size),
        "hidden_act": "gelu_tanh",
    }


def gemma_layer_types(layers: int, pattern: int) -> tuple[str, ...]:
    """Sliding attention but in every `pattern`-th layer."""
    kinds = (
        "full_attention" if (layer + 1) % pattern == 0 else "sliding_attention" for layer in range(layers)
    )
    return tuple(kinds)


def with_gemma_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with absent keys filled in and the two RoPE tables of transformers 5 in the flat keys of 4.

    Raises:
        ValueError: an option that is not supported; names it.
    """
    filled = _DEFAULTS | {key: value for key, value in data.items() if value is not None}
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
    if filled["query_pre_attn_scalar"] != filled["head_dim"]:
        raise ValueError(
            f"query_pre_attn_scalar must equal head_dim ({filled['head_dim']}), got {filled['query_pre_attn_scalar']}"
        )
    for key in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"):
        if filled.get(key):
            raise ValueError(f"{key} is not supported, got {filled[key]!r}")
    if filled.get("hidden_activation", "gelu_pytorch_tanh") != "gelu_pytorch_tanh":
        raise ValueError(
            f"hidden_activation must be 'gelu_pytorch_tanh', got {filled['hidden_activation']!r}"
        )
    return filled


def gemma_options(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """Fields of `ModelConfig` from `with_gemma_defaults`' data."""
    pattern = data.get("sliding_window_pattern", LAYERS_PER_PATTERN)
    if not isinstance(pattern, int) or pattern < 1:
        raise ValueError(f"sliding_window_pattern must be a positive integer, got {pattern!r}")
    return gemma_architecture(data["hidden_size"]) | {
        "attention_bias": bool(data.get("attention_bias", False)),
        "attention_output_bias": bool(data.get("attention_bias", False)),
        "sliding_window": data["sliding_window"],
        "layer_types": tuple(data.get("layer_types") or gemma_layer_types(layers, pattern)),
        "local_rope_theta": data["rope_local_base_freq"],
    }


def gemma_keys(config: ModelConfig) -> dict[str, Any]:
    """config.json's keys beyond those of every family."""
    return {
        "attention_bias": config.attention_bias,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": config.head_dim,
        "rope_local_base_freq": config.local_rope_theta,
        "sliding_window": config.sliding_window,
        "layer_types": list(config.layer_types or ("sliding_attention",) * config.num_hidden_layers),
    }
