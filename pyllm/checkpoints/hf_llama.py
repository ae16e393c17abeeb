"""What LLaMA and its relatives have of their own in config.json: Mistral, Qwen 2 and 3, Phi-3, Cohere."""

from __future__ import annotations

from typing import Any

from pyllm.models.config import ModelConfig

_COHERE_DEFAULTS = {"layer_norm_eps": 1e-5, "tie_word_embeddings": True, "max_position_embeddings": 8192}


def llama_options(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """Biases, if asked for."""
    bias = bool(data.get("attention_bias", False))
    return {
        "attention_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": bool(data.get("mlp_bias", False)),
    }


def llama_keys(config: ModelConfig) -> dict[str, Any]:
    return {"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias}


def mistral_options(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """A window in all layers."""
    return {"sliding_window": data.get("sliding_window", 4096)}


def mistral_keys(config: ModelConfig) -> dict[str, Any]:
    return {"sliding_window": config.sliding_window}


def qwen2_options(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """Biases of q, k and v always, windows in some layers if asked for."""
    return {"attention_bias": True} | window_options(data, layers)


def qwen3_options(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """Norms per head, biases and windows if asked for."""
    bias = bool(data.get("attention_bias", False))
    options = {"qk_norm": True, "attention_bias": bias, "attention_output_bias": bias}
    return options | window_options(data, layers)


def window_options(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """Qwen's windows: the layers that `layer_types` names, otherwise those from `max_window_layers` on."""
    if not data.get("use_sliding_window"):
        return {}
    first = data.get("max_window_layers", 28)
    default = ["sliding_attention" if layer >= first else "full_attention" for layer in range(layers)]
    return {
        "sliding_window": data.get("sliding_window", 4096),
        "layer_types": tuple(data.get("layer_types") or default),
    }


def qwen_keys(config: ModelConfig) -> dict[str, Any]:
    bias = {} if config.model_type == "qwen2" else {"attention_bias": config.attention_bias}
    return bias | window_keys(config)


def window_keys(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `window_options`."""
    if config.sliding_window is None:
        return {"use_sliding_window": False}
    types = config.layer_types or ("sliding_attention",) * config.num_hidden_layers
    # transformers 4 reads the first windowed layer, 5 the list.
    first = types.index("sliding_attention") if "sliding_attention" in types else len(types)
    return {
        "use_sliding_window": True,
        "sliding_window": config.sliding_window,
        "max_window_layers": first,
        "layer_types": list(types),
    }


def with_phi3_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with the old names of the RoPE scaling replaced: "su" and "yarn" are LongRoPE in this family."""
    filled = dict(data)
    for key in ("rope_parameters", "rope_scaling"):
        table = filled.get(key)
        if isinstance(table, dict) and table.get("rope_type", table.get("type")) in ("su", "yarn"):
            filled[key] = table | {"rope_type": "longrope"}
    return filled


def phi3_options(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """A window if asked for; the fused projections are an affair of `hf_names`."""
    return {"sliding_window": data.get("sliding_window")}


def phi3_keys(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    keys: dict[str, Any] = {
        "sliding_window": config.sliding_window,
        "partial_rotary_factor": config.rotated / config.head_dim,
    }
    if scaling is not None:
        keys["original_max_position_embeddings"] = scaling.original_max_position_embeddings
    return keys


def with_cohere_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with absent keys filled in. Raises ValueError for norms per head, which are not RMSNorms here."""
    if data.get("use_qk_norm"):
        raise ValueError(f"use_qk_norm is not supported, got {data['use_qk_norm']!r}")
    return _COHERE_DEFAULTS | {key: value for key, value in data.items() if value is not None}


def cohere_options(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """Parallel blocks under LayerNorms without bias, interleaved RoPE, scaled logits."""
    bias = bool(data.get("attention_bias", False))
    return {
        "parallel_block": True,
        "norm": "layer_norm",
        "rope_interleaved": True,
        "logit_scale": data.get("logit_scale", 0.0625),
        "attention_bias": bias,
        "attention_output_bias": bias,
    }


def cohere_keys(config: ModelConfig) -> dict[str, Any]:
    return {
        "use_qk_norm": False,
        "logit_scale": config.logit_scale,
        "attention_bias": config.attention_bias,
    }
