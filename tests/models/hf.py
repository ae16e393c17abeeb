"""Tiny random checkpoints made by transformers, the independent implementation that ours is compared with."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

_SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 77,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_NO_HEAD_DIM = {key: value for key, value in _SMALL.items() if key != "head_dim"}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}

VARIANTS: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "llama": (LlamaForCausalLM, LlamaConfig(**_SMALL)),
    "llama-tied-mha": (
        LlamaForCausalLM,
        LlamaConfig(**_SMALL | {"num_key_value_heads": 6, "tie_word_embeddings": True, "head_dim": 8}),
    ),
    "llama-biases": (LlamaForCausalLM, LlamaConfig(**_SMALL, attention_bias=True, mlp_bias=True)),
    "llama-mqa-llama3": (
        LlamaForCausalLM,
        LlamaConfig(**_SMALL | {"num_key_value_heads": 1, "rope_parameters": _LLAMA3}),
    ),
    "llama-linear-rope": (LlamaForCausalLM, LlamaConfig(**_SMALL, rope_parameters=_LINEAR)),
    "mistral-window": (MistralForCausalLM, MistralConfig(**_SMALL, sliding_window=5)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**_NO_HEAD_DIM, tie_word_embeddings=True)),
    "qwen2-windows": (
        Qwen2ForCausalLM,
        Qwen2Config(**_NO_HEAD_DIM, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    ),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**_SMALL)),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(**_SMALL, query_pre_attn_scalar=10, sliding_window=5, sliding_window_pattern=2),
    ),
}


def make(variant: str, seed: int = 0) -> PreTrainedModel:
    """A model with weights that are not at their initial values: biases and norms count too."""
    family, config = VARIANTS[variant]
    torch.manual_seed(seed)
    model = family(copy.deepcopy(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def ids(batch: int, tokens: int, seed: int = 1, vocab_size: int = 97) -> torch.Tensor:
    return torch.randint(0, vocab_size, (batch, tokens), generator=torch.Generator().manual_seed(seed))
