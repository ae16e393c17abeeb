"""What GPT-2 and its relatives have of their own in config.json."""

from __future__ import annotations

from typing import Any

from pyllm.models.config import MAX_LAYERS, ModelConfig

# Our names of fields -> theirs.
GPT2_NAMES = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "rms_norm_eps": "layer_norm_epsilon",
}
GPT_NEO_NAMES = {
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "rms_norm_eps": "layer_norm_epsilon",
}
_DEFAULTS = {"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True}
_KINDS = {"global": "full_attention", "local": "sliding_attention"}
# Keys that change the network and are not supported -> what they must be.
_FIXED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
_BLOCK: dict[str, Any] = {
    "norm": "layer_norm",
    "norm_bias": True,
    "position_embedding": "learned",
    "gated_mlp": False,
    "attention_output_bias": True,
    "mlp_bias": True,
}


def with_gpt2_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with absent keys filled in. Raises ValueError for an option that is not supported."""
    for key, value in _FIXED.items():
        if data.get(key, value) != value:
            raise ValueError(f"{key} must be {value}, got {data[key]!r}")
    filled = _DEFAULTS | {"n_positions": 1024} | _present(data)
    width = filled.get("n_embd")
    return {"n_inner": 4 * width} | filled if isinstance(width, int) else filled


def gpt2_options(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """LayerNorms, learned positions, a plain MLP, biases everywhere."""
    return _BLOCK | {"attention_bias": True}


def gpt2_keys(config: ModelConfig) -> dict[str, Any]:
    return {}


def gpt3_options(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """GPT-2 whose odd layers see a band."""
    return gpt2_options(data, layers) | _bands(data, layers)


def gpt3_keys(config: ModelConfig) -> dict[str, Any]:
    return _band_keys(config)


def with_gpt_neo_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with absent keys filled in."""
    filled = _DEFAULTS | {"max_position_embeddings": 2048} | _present(data)
    width = filled.get("hidden_size")
    return {"intermediate_size": 4 * width} | filled if isinstance(width, int) else filled


def gpt_neo_options(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """GPT-3's bands, scores without a scale, no biases in q, k and v."""
    return _BLOCK | {"attention_scale": 1.0} | _bands(data, layers)


def gpt_neo_keys(config: ModelConfig) -> dict[str, Any]:
    return _band_keys(config)


def _present(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not None}


def _bands(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """`attention_types`, [[["global", "local"], times], ...], as one kind per layer."""
    kinds: list[str] = []
    try:
        for pattern, times in data.get("attention_types") or [[["global", "local"], layers // 2]]:
            kinds += [_KINDS[kind] for kind in pattern] * min(times, MAX_LAYERS)
    except (TypeError, ValueError, KeyError):
        raise ValueError(
            f"attention_types must be a list of [kinds, times] with kinds of {sorted(_KINDS)}, "
            f"got {data.get('attention_types')!r}"
        ) from None
    return {"sliding_window": data.get("window_size", 256), "layer_types": tuple(kinds)}


def _band_keys(config: ModelConfig) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in _KINDS.items()}
    types = config.layer_types or ("full_attention",) * config.num_hidden_layers
    return {"window_size": config.sliding_window, "attention_types": [[[names[kind] for kind in types], 1]]}
