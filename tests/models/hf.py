"""Tiny random checkpoints made by transformers, the independent implementation that ours is compared with."""

from __future__ import annotations

import copy
import tempfile
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
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
# Reaches beyond its context in tests of 33 tokens.
_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 4.0}
_YARN = {"rope_type": "yarn", "rope_theta": 300.0, "factor": 4.0, "original_max_position_embeddings": 16}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.3, 1.4, 1.5],
    "long_factor": [1.0, 1.5, 3.0, 5.5, 7.0],
}
_GPT = {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 64, "bos_token_id": 1}
_GPT |= {"eos_token_id": 2, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
_COHERE = {key: value for key, value in _NO_HEAD_DIM.items() if key != "rms_norm_eps"}
_COHERE |= {"pad_token_id": 0, "logit_scale": 0.3}
_EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 20}

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
    "gemma2": (
        Gemma2ForCausalLM,
        Gemma2Config(
            **_SMALL,
            query_pre_attn_scalar=24,
            sliding_window=5,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
            attn_implementation="eager",
        ),
    ),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(**_SMALL, query_pre_attn_scalar=10, sliding_window=5, sliding_window_pattern=2),
    ),
    "gemma3-caps": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(
            **_SMALL,
            query_pre_attn_scalar=7,
            sliding_window=5,
            final_logit_softcapping=4.0,
        ),
    ),
    "llama-dynamic-rope": (
        LlamaForCausalLM,
        LlamaConfig(**_SMALL | {"rope_parameters": _DYNAMIC, "max_position_embeddings": 16}),
    ),
    "llama-yarn": (LlamaForCausalLM, LlamaConfig(**_SMALL, rope_parameters=_YARN)),
    "qwen3-yarn-mscale": (
        Qwen3ForCausalLM,
        Qwen3Config(
            **_SMALL,
            rope_parameters=_YARN
            | {"mscale": 0.7, "mscale_all_dim": 1.2, "beta_fast": 8, "beta_slow": 2, "truncate": False},
        ),
    ),
    "phi3": (Phi3ForCausalLM, Phi3Config(**_NO_HEAD_DIM | {"pad_token_id": 0})),
    "phi3-partial-window": (
        Phi3ForCausalLM,
        Phi3Config(
            **_NO_HEAD_DIM | {"pad_token_id": 0, "hidden_size": 96},
            sliding_window=6,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
        ),
    ),
    "phi3-long": (
        Phi3ForCausalLM,
        Phi3Config(
            **_NO_HEAD_DIM | {"pad_token_id": 0, "hidden_size": 60},
            original_max_position_embeddings=16,
            rope_parameters=_LONGROPE | {"original_max_position_embeddings": 16},
        ),
    ),
    "phi3-short": (
        Phi3ForCausalLM,
        Phi3Config(
            **_NO_HEAD_DIM | {"pad_token_id": 0, "hidden_size": 60, "max_position_embeddings": 128},
            original_max_position_embeddings=64,
            rope_parameters=_LONGROPE | {"original_max_position_embeddings": 64},
        ),
    ),
    "gpt2": (GPT2LMHeadModel, GPT2Config(**_GPT)),
    "gpt2-wide-untied": (
        GPT2LMHeadModel,
        GPT2Config(**_GPT, n_inner=70, activation_function="gelu", tie_word_embeddings=False),
    ),
    "gpt_neo": (
        GPTNeoForCausalLM,
        GPTNeoConfig(
            vocab_size=97,
            hidden_size=48,
            num_layers=4,
            num_heads=6,
            max_position_embeddings=64,
            attention_types=[[["global", "local"], 2]],
            window_size=5,
            bos_token_id=1,
            eos_token_id=2,
        ),
    ),
    "cohere": (CohereForCausalLM, CohereConfig(**_COHERE, attention_bias=True)),
    "cohere-multi-query": (
        CohereForCausalLM,
        CohereConfig(**_COHERE | {"num_key_value_heads": 1, "logit_scale": 1.0}),
    ),
    "mixtral": (
        MixtralForCausalLM,
        MixtralConfig(**_SMALL | {"intermediate_size": 76}, num_local_experts=4, sliding_window=6),
    ),
    "qwen2_moe": (
        Qwen2MoeForCausalLM,
        Qwen2MoeConfig(**_NO_HEAD_DIM, **_EXPERTS, shared_expert_intermediate_size=36),
    ),
    "qwen2_moe-some-layers": (
        Qwen2MoeForCausalLM,
        Qwen2MoeConfig(
            **_NO_HEAD_DIM,
            **_EXPERTS,
            shared_expert_intermediate_size=36,
            decoder_sparse_step=2,
            norm_topk_prob=True,
            qkv_bias=False,
        ),
    ),
    "qwen3_moe": (Qwen3MoeForCausalLM, Qwen3MoeConfig(**_SMALL, **_EXPERTS, norm_topk_prob=True)),
    "qwen3_moe-wide": (
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig(
            **_SMALL | {"hidden_size": 64, "num_hidden_layers": 1} | _EXPERTS | {"moe_intermediate_size": 32},
            norm_topk_prob=True,
        ),
    ),
    "qwen3_moe-some-layers": (
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig(**_SMALL, **_EXPERTS, mlp_only_layers=[1], attention_bias=True),
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


def on_disk(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The tensors that transformers writes into the model's folder."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(f"{folder}/model.safetensors")


def gradients_on_disk(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The model's gradients under the names and in the layouts of its folder."""
    holder = copy.deepcopy(model)
    with torch.no_grad():
        for target, source in zip(holder.parameters(), model.parameters(), strict=True):
            assert source.grad is not None
            target.copy_(source.grad)
    return on_disk(holder)
