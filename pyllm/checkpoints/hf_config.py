"""config.json of Hugging Face folders to `ModelConfig` and back. Keys of transformers 4 and 5 are understood."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from pyllm.checkpoints.hf_gemma import gemma_keys, gemma_options, with_gemma_defaults
from pyllm.models.config import ModelConfig, RopeScaling

# Architecture in config.json -> model_type. What distinguishes a family stands in `_family_options`.
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma3ForCausalLM": "gemma3",
}
# Families that config.json calls by another name.
_HF_TYPES = {"gemma3": "gemma3_text"}
_SHAPES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_OPTIONAL = (
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "initializer_range",
    "bos_token_id",
    "pad_token_id",
)
_SCALING_KEYS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def config_from_hf(data: dict[str, Any]) -> ModelConfig:
    """Read what config.json says about a decoder.

    Raises:
        ValueError: unknown architecture, missing key, an option that is not supported, or an impossible value;
            names it.
    """
    model_type = _model_type(data)
    missing = [key for key in _SHAPES if key not in data]
    if missing:
        raise ValueError(f"config.json lacks {missing}")
    _refuse_unsupported(data)
    if model_type == "gemma3":
        data = with_gemma_defaults(data)
    theta, scaling = _rope(data)
    config = ModelConfig(
        **{key: data[key] for key in _SHAPES},
        **{key: data[key] for key in _OPTIONAL if data.get(key) is not None},
        rope_theta=theta,
        rope_scaling=scaling,
        model_type=model_type,
        eos_token_ids=_token_ids(data.get("eos_token_id")),
    )
    return dataclasses.replace(config, **_family_options(model_type, data, config.num_hidden_layers))


def config_to_hf(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The config.json of `config` with weights in `dtype`, in the keys that transformers 4 and 5 both read.

    Raises:
        ValueError: the family has no way to express one of the options.
    """
    architecture = {family: name for name, family in ARCHITECTURES.items()}.get(config.model_type)
    if architecture is None:
        raise ValueError(f"model_type {config.model_type!r} has no Hugging Face architecture here")
    eos = list(config.eos_token_ids)
    data: dict[str, Any] = {key: getattr(config, key) for key in (*_SHAPES, *_OPTIONAL)}
    data |= {
        "architectures": [architecture],
        "model_type": _HF_TYPES.get(config.model_type, config.model_type),
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope_scaling_to_hf(config.rope_scaling),
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    data |= _family_keys(config)
    lost = differing_fields(config, config_from_hf(data))
    if lost:
        raise ValueError(f"a {config.model_type} config.json cannot express this model's {lost}")
    return data


def _model_type(data: dict[str, Any]) -> str:
    names = data.get("architectures") or []
    if isinstance(names, list) and names:
        if not isinstance(names[0], str) or names[0] not in ARCHITECTURES:
            supported = sorted(ARCHITECTURES)
            raise ValueError(f"architecture {names[0]!r} is not supported, expected one of {supported}")
        return ARCHITECTURES[names[0]]
    model_type = data.get("model_type")
    if isinstance(model_type, str):
        model_type = {hf: ours for ours, hf in _HF_TYPES.items()}.get(model_type, model_type)
    if model_type not in ARCHITECTURES.values():
        supported = sorted(ARCHITECTURES.values())
        raise ValueError(f"model_type {model_type!r} is not supported, expected one of {supported}")
    return str(model_type)


def _refuse_unsupported(data: dict[str, Any]) -> None:
    activation = data.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ValueError(f"hidden_act must be 'silu', got {activation!r}")


def _family_options(model_type: str, data: dict[str, Any], layers: int) -> dict[str, Any]:
    """The options in which families differ, with each family's own defaults for absent keys."""
    if model_type == "gemma3":
        return gemma_options(data, layers)
    asked_bias = bool(data.get("attention_bias", False)) and model_type in ("llama", "qwen3")
    options: dict[str, Any] = {
        "attention_bias": asked_bias or model_type == "qwen2",
        "attention_output_bias": asked_bias,
        "mlp_bias": model_type == "llama" and bool(data.get("mlp_bias", False)),
        "qk_norm": model_type == "qwen3",
    }
    if model_type == "mistral":
        options["sliding_window"] = data.get("sliding_window", 4096)
    elif model_type in ("qwen2", "qwen3") and data.get("use_sliding_window"):
        first = data.get("max_window_layers", 28)
        default = ["sliding_attention" if layer >= first else "full_attention" for layer in range(layers)]
        options["sliding_window"] = data.get("sliding_window", 4096)
        options["layer_types"] = tuple(data.get("layer_types") or default)
    return options


def _family_keys(config: ModelConfig) -> dict[str, Any]:
    if config.model_type == "llama":
        return {"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias}
    if config.model_type == "gemma3":
        return gemma_keys(config)
    if config.model_type == "mistral":
        return {"sliding_window": config.sliding_window}
    keys: dict[str, Any] = {} if config.model_type == "qwen2" else {"attention_bias": config.attention_bias}
    if config.sliding_window is None:
        return keys | {"use_sliding_window": False}
    types = config.layer_types or ("sliding_attention",) * config.num_hidden_layers
    # transformers 4 reads the first windowed layer, 5 the list.
    first = types.index("sliding_attention") if "sliding_attention" in types else len(types)
    return keys | {
        "use_sliding_window": True,
        "sliding_window": config.sliding_window,
        "max_window_layers": first,
        "layer_types": list(types),
    }


def differing_fields(config: ModelConfig, other: ModelConfig) -> list[str]:
    """Fields in which two configurations describe different networks."""
    names = [
        field.name
        for field in dataclasses.fields(config)
        if field.name not in ("sliding_window", "layer_types")
    ]
    differing = [name for name in names if getattr(config, name) != getattr(other, name)]
    layers = range(config.num_hidden_layers)
    if [config.window(layer) for layer in layers] != [other.window(layer) for layer in layers]:
        differing.append("sliding_window")
    return differing


def _rope(data: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    # transformers 5 keeps all in rope_parameters; 4 has rope_theta beside rope_scaling, whose kind was "type" once.
    parameters = data.get("rope_parameters") or data.get("rope_scaling") or {}
    if not isinstance(parameters, dict) or any(isinstance(value, dict) for value in parameters.values()):
        raise ValueError(f"rope parameters must be one flat table for all layers, got {parameters!r}")
    if parameters.get("partial_rotary_factor", data.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ValueError("partial_rotary_factor other than 1 is not supported")
    theta = parameters.get("rope_theta", data.get("rope_theta", 10000.0))
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind not in _SCALING_KEYS:
        raise ValueError(f"rope scaling {kind!r} is not supported, expected one of {sorted(_SCALING_KEYS)}")
    missing = [key for key in _SCALING_KEYS[kind] if key not in parameters]
    if missing:
        raise ValueError(f"rope scaling {kind!r} lacks {missing}")
    return theta, RopeScaling(kind, **{key: parameters[key] for key in _SCALING_KEYS[kind]})


def _rope_scaling_to_hf(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    return {"rope_type": scaling.kind} | {key: getattr(scaling, key) for key in _SCALING_KEYS[scaling.kind]}


def _token_ids(value: Any) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) for token in ids):
        raise ValueError(f"eos_token_id must be an integer or a list of integers, got {value!r}")
    return tuple(ids)
