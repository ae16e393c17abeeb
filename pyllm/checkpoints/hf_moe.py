"""What mixtures of experts have of their own in config.json: Mixtral, Qwen 2 MoE, Qwen 3 MoE."""

from __future__ import annotations

from typing import Any

from pyllm.checkpoints.hf_llama import qwen3_options, window_keys, window_options
from pyllm.models.config import MAX_LAYERS, MixtureOfExperts, ModelConfig

_MIXTRAL_DEFAULTS = {"rms_norm_eps": 1e-5, "num_local_experts": 8, "num_experts_per_tok": 2}


def with_mixtral_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with absent keys filled in."""
    return _MIXTRAL_DEFAULTS | {key: value for key, value in data.items() if value is not None}


def mixtral_options(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """Experts of the model's intermediate_size in all layers, normalized weights."""
    experts = MixtureOfExperts(
        data["num_local_experts"], data["num_experts_per_tok"], data["intermediate_size"]
    )
    return {"experts": experts, "sliding_window": data.get("sliding_window")}


def mixtral_keys(config: ModelConfig) -> dict[str, Any]:
    experts = _experts(config)
    return {
        "num_local_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "sliding_window": config.sliding_window,
    }


def qwen2_moe_options(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """Biases of q, k and v unless `qkv_bias` says otherwise, a shared expert."""
    filled = {
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    } | {key: value for key, value in data.items() if value is not None}
    experts = _qwen_experts(filled, layers, filled["shared_expert_intermediate_size"])
    windows = window_options(data, layers)
    return {"attention_bias": bool(data.get("qkv_bias", True)), "experts": experts} | windows


def qwen2_moe_keys(config: ModelConfig) -> dict[str, Any]:
    keys = _qwen_keys(config) | {"qkv_bias": config.attention_bias}
    return keys | {"shared_expert_intermediate_size": _experts(config).shared_intermediate_size}


def qwen3_moe_options(data: dict[str, Any], layers: int) -> dict[str, Any]:
    """Qwen 3 with experts; its window, if any, is in all layers."""
    # transformers 5 calls it num_local_experts, as Mixtral does.
    filled = {
        "num_experts": data.get("num_local_experts") or 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    } | {key: value for key, value in data.items() if value is not None}
    options = qwen3_options(data, layers) | {"experts": _qwen_experts(filled, layers, None)}
    return options | {"layer_types": None}


def qwen3_moe_keys(config: ModelConfig) -> dict[str, Any]:
    window = {
        "use_sliding_window": config.sliding_window is not None,
        "sliding_window": config.sliding_window,
    }
    return _qwen_keys(config) | window | {"attention_bias": config.attention_bias}


def _qwen_experts(data: dict[str, Any], layers: int, shared: int | None) -> MixtureOfExperts:
    """Experts in every `decoder_sparse_step`-th layer that `mlp_only_layers` does not name."""
    step, dense = data.get("decoder_sparse_step", 1), data.get("mlp_only_layers", [])
    if not isinstance(step, int) or step < 1 or not isinstance(dense, list):
        raise ValueError(
            f"decoder_sparse_step must be a positive integer and mlp_only_layers a list, got {step!r} and {dense!r}"
        )
    places = range(min(layers, MAX_LAYERS))
    return MixtureOfExperts(
        data["num_experts"],
        data["num_experts_per_tok"],
        data["moe_intermediate_size"],
        normalize=data.get("norm_topk_prob", False),
        shared_intermediate_size=shared,
        dense_layers=tuple(layer for layer in places if layer in dense or (layer + 1) % step),
    )


def _qwen_keys(config: ModelConfig) -> dict[str, Any]:
    experts = _experts(config)
    keys = {
        "num_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "moe_intermediate_size": experts.intermediate_size,
        "norm_topk_prob": experts.normalize,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(experts.dense_layers),
    }
    return keys | window_keys(config)


def _experts(config: ModelConfig) -> MixtureOfExperts:
    if config.experts is None:
        raise ValueError(f"a {config.model_type} has experts, but experts is None")
    return config.experts
