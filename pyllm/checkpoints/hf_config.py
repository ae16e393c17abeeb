"""config.json of Hugging Face folders to `ModelConfig` and back. Keys of transformers 4 and 5 are understood."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pyllm.checkpoints import hf_gemma, hf_gpt, hf_llama, hf_moe
from pyllm.checkpoints.hf_rope import read_rope, write_rope
from pyllm.models.config import ModelConfig

_Data = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """How config.json of one architecture reads.

    Attributes:
        architecture: its name there.
        options: (data, number of layers) -> fields of `ModelConfig` in which families differ, with the family's own
            defaults for absent keys.
        keys: the inverse: what a configuration adds to the keys of every family.
        prepare: data with absent keys filled in, before anything is read.
        hf_type: model_type in config.json where it differs from ours.
        renamed: our name of a field -> the family's.
        activation: the key that names the activation, and what stands for its absence.
        partial_rotary: RoPE may rotate a part of each head.
    """

    architecture: str
    options: Callable[[_Data, int], _Data]
    keys: Callable[[ModelConfig], _Data]
    prepare: Callable[[_Data], _Data] = dict
    hf_type: str | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    activation: tuple[str, str] = ("hidden_act", "silu")
    partial_rotary: bool = False


# model_type of `ModelConfig` -> its family.
FAMILIES = {
    "llama": Family("LlamaForCausalLM", hf_llama.llama_options, hf_llama.llama_keys),
    "mistral": Family("MistralForCausalLM", hf_llama.mistral_options, hf_llama.mistral_keys),
    "qwen2": Family("Qwen2ForCausalLM", hf_llama.qwen2_options, hf_llama.qwen_keys),
    "qwen3": Family("Qwen3ForCausalLM", hf_llama.qwen3_options, hf_llama.qwen_keys),
    "phi3": Family(
        "Phi3ForCausalLM",
        hf_llama.phi3_options,
        hf_llama.phi3_keys,
        prepare=hf_llama.with_phi3_defaults,
        partial_rotary=True,
    ),
    "cohere": Family(
        "CohereForCausalLM",
        hf_llama.cohere_options,
        hf_llama.cohere_keys,
        prepare=hf_llama.with_cohere_defaults,
        renamed={"rms_norm_eps": "layer_norm_eps"},
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        hf_gemma.gemma2_options,
        hf_gemma.gemma2_keys,
        prepare=hf_gemma.with_gemma2_defaults,
        activation=("hidden_activation", "gelu_pytorch_tanh"),
    ),
    "gemma3": Family(
        "Gemma3ForCausalLM",
        hf_gemma.gemma3_options,
        hf_gemma.gemma3_keys,
        prepare=hf_gemma.with_gemma3_defaults,
        hf_type="gemma3_text",
        activation=("hidden_activation", "gelu_pytorch_tanh"),
    ),
    "gpt2": Family(
        "GPT2LMHeadModel",
        hf_gpt.gpt2_options,
        hf_gpt.gpt2_keys,
        prepare=hf_gpt.with_gpt2_defaults,
        renamed=hf_gpt.GPT2_NAMES,
        activation=("activation_function", "gelu_new"),
    ),
    # transformers has no GPT-3: its folders are GPT-2's with a band, and ours alone to read.
    "gpt3": Family(
        "GPT3LMHeadModel",
        hf_gpt.gpt3_options,
        hf_gpt.gpt3_keys,
        prepare=hf_gpt.with_gpt2_defaults,
        renamed=hf_gpt.GPT2_NAMES,
        activation=("activation_function", "gelu_new"),
    ),
    "gpt_neo": Family(
        "GPTNeoForCausalLM",
        hf_gpt.gpt_neo_options,
        hf_gpt.gpt_neo_keys,
        prepare=hf_gpt.with_gpt_neo_defaults,
        renamed=hf_gpt.GPT_NEO_NAMES,
        activation=("activation_function", "gelu_new"),
    ),
    "mixtral": Family(
        "MixtralForCausalLM",
        hf_moe.mixtral_options,
        hf_moe.mixtral_keys,
        prepare=hf_moe.with_mixtral_defaults,
    ),
    "qwen2_moe": Family("Qwen2MoeForCausalLM", hf_moe.qwen2_moe_options, hf_moe.qwen2_moe_keys),
    "qwen3_moe": Family("Qwen3MoeForCausalLM", hf_moe.qwen3_moe_options, hf_moe.qwen3_moe_keys),
}
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
# transformers' names -> ours.
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


def config_from_hf(data: _Data) -> ModelConfig:
    """Read what config.json says about a decoder.

    Raises:
        ValueError: unknown architecture, missing key, an option that is not supported, or an impossible value;
            names it.
    """
    model_type = _model_type(data)
    family = FAMILIES[model_type]
    data = family.prepare(data)
    data |= {ours: data[theirs] for ours, theirs in family.renamed.items() if theirs in data}
    missing = [family.renamed.get(key, key) for key in _SHAPES if key not in data]
    if missing:
        raise ValueError(f"config.json lacks {missing}")
    rope = read_rope(data, partial=family.partial_rotary)
    config = ModelConfig(
        **{key: data[key] for key in _SHAPES},
        **{key: data[key] for key in _OPTIONAL if data.get(key) is not None},
        **rope,
        hidden_act=_activation(data, *family.activation),
        model_type=model_type,
        eos_token_ids=_token_ids(data.get("eos_token_id")),
    )
    return dataclasses.replace(config, **family.options(data, config.num_hidden_layers))


def config_to_hf(config: ModelConfig, dtype: torch.dtype) -> _Data:
    """The config.json of `config` with weights in `dtype`, in the keys that transformers 4 and 5 both read.

    Raises:
        ValueError: the family has no way to express one of the options.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ValueError(f"model_type {config.model_type!r} has no Hugging Face architecture here")
    eos = list(config.eos_token_ids)
    key, default = family.activation
    data: _Data = {family.renamed.get(name, name): getattr(config, name) for name in (*_SHAPES, *_OPTIONAL)}
    data |= {
        "architectures": [family.architecture],
        "model_type": family.hf_type or config.model_type,
        key: _activation_name(config.hidden_act, default),
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    data |= write_rope(config) if config.position_embedding == "rope" else {}
    data |= family.keys(config)
    lost = differing_fields(config, config_from_hf(data))
    if lost:
        raise ValueError(f"a {config.model_type} config.json cannot express this model's {lost}")
    return data


def _model_type(data: _Data) -> str:
    names = data.get("architectures") or []
    if isinstance(names, list) and names:
        known = {family.architecture: model_type for model_type, family in FAMILIES.items()}
        if not isinstance(names[0], str) or names[0] not in known:
            raise ValueError(f"architecture {names[0]!r} is not supported, expected one of {sorted(known)}")
        return known[names[0]]
    model_type = data.get("model_type")
    known = {family.hf_type or name: name for name, family in FAMILIES.items()}
    if not isinstance(model_type, str) or known.get(model_type, model_type) not in FAMILIES:
        raise ValueError(f"model_type {model_type!r} is not supported, expected one of {sorted(FAMILIES)}")
    return known.get(model_type, model_type)


def _activation(data: _Data, key: str, default: str) -> str:
    name = data.get(key) or default
    if name not in _ACTIVATIONS:
        raise ValueError(f"{key} must be one of {sorted(_ACTIVATIONS)}, got {name!r}")
    return _ACTIVATIONS[name]


def _activation_name(activation: str, default: str) -> str:
    """transformers' name, the family's own where several mean the same."""
    if _ACTIVATIONS[default] == activation:
        return default
    return next(name for name, ours in _ACTIVATIONS.items() if ours == activation)


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


def _token_ids(value: Any) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) for token in ids):
        raise ValueError(f"eos_token_id must be an integer or a list of integers, got {value!r}")
    return tuple(ids)
