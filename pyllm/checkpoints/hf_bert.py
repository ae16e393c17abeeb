"""BERT's folders: config.json to `EncoderConfig` and back, tensor names to ours and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyllm.checkpoints.stored import StoredTensor
from pyllm.models.encoder import EncoderConfig

ARCHITECTURE = "BertModel"
_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_OPTIONAL = (
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "initializer_range",
    "bos_token_id",
    "pad_token_id",
)
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "silu": "silu"}
# Ours -> theirs.
_NAMES = {
    "embed_tokens": "embeddings.word_embeddings",
    "embed_positions": "embeddings.position_embeddings",
    "embed_token_types": "embeddings.token_type_embeddings",
    "embed_norm": "embeddings.LayerNorm",
    "pooler": "pooler.dense",
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.o_proj": "attention.output.dense",
    "self_attn_norm": "attention.output.LayerNorm",
    "mlp.up_proj": "intermediate.dense",
    "mlp.down_proj": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
_OURS = {theirs: ours for ours, theirs in _NAMES.items()}
_DERIVED = ("embeddings.position_ids", "embeddings.token_type_ids")

_T = TypeVar("_T", StoredTensor, Tensor)


def bert_config_from_hf(data: dict[str, Any], stored: Mapping[str, object]) -> EncoderConfig:
    """What config.json says; the tensors' names tell whether there is a pooler.

    Raises:
        ValueError: a missing key, an option that is not supported, or an impossible value; names it.
    """
    missing = [key for key in _REQUIRED if key not in data]
    if missing:
        raise ValueError(f"config.json lacks {missing}")
    for key, value in (
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("add_cross_attention", False),
    ):
        if (data.get(key) or value) != value:
            raise ValueError(f"{key} must be {value!r}, got {data[key]!r}")
    activation = data.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise ValueError(f"hidden_act must be one of {sorted(_ACTIVATIONS)}, got {activation!r}")
    return EncoderConfig(
        **{key: data[key] for key in _REQUIRED},
        **{key: data[key] for key in _OPTIONAL if data.get(key) is not None},
        hidden_act=_ACTIVATIONS[activation],
        has_pooler=any(name.endswith("pooler.dense.weight") for name in stored),
    )


def bert_config_to_hf(config: EncoderConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The config.json of `config`."""
    activation = next(name for name, ours in _ACTIVATIONS.items() if ours == config.hidden_act)
    return {key: getattr(config, key) for key in (*_REQUIRED, *_OPTIONAL)} | {
        "architectures": [ARCHITECTURE],
        "model_type": "bert",
        "hidden_act": activation,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def bert_from_hf(stored: Mapping[str, _T]) -> dict[str, _T]:
    """Tensors under our names; those without a rule keep theirs. Old files say gamma and beta in norms."""
    result = {}
    for name, tensor in stored.items():
        if name.endswith(_DERIVED):
            continue
        name = name.removeprefix("bert.").replace("LayerNorm.gamma", "LayerNorm.weight")
        stem, _, suffix = name.replace("LayerNorm.beta", "LayerNorm.bias").rpartition(".")
        match = re.fullmatch(r"encoder\.layer\.(\d{1,5})\.(.+)", stem)
        prefix, inner = ("", stem) if match is None else (f"layers.{int(match[1])}.", match[2])
        result[f"{prefix}{_OURS[inner]}.{suffix}" if inner in _OURS else name] = tensor
    return result


def bert_to_hf(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse."""
    result = {}
    for name, tensor in state.items():
        stem, _, suffix = name.rpartition(".")
        match = re.fullmatch(r"layers\.(\d+)\.(.+)", stem)
        prefix, inner = ("", stem) if match is None else (f"encoder.layer.{match[1]}.", match[2])
        result[f"{prefix}{_NAMES[inner]}.{suffix}"] = tensor
    return result
