"""A decoder as GGUF: `ModelConfig` to metadata, state-dict names to tensor names. The inverse of gguf_model.py."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pyllm.checkpoints.gguf_model import permuted_heads
from pyllm.checkpoints.gguf_names import ROPE_FACTORS, gguf_name
from pyllm.checkpoints.hf_config import differing_fields
from pyllm.checkpoints.hf_gemma import gemma_architecture, gemma_layer_types
from pyllm.checkpoints.save import plain_state_dict
from pyllm.models.config import ModelConfig, RopeScaling
from pyllm.models.rope import scaled_frequencies
from pyllm.models.transformer import Transformer
from pyllm.nn.rotary import inverse_frequencies

# Mistral's files say llama.
_ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3": "gemma3",
}

# Fields that every family's file holds, as keys or by the tensors it has; initializer_range matters to nobody.
_FREE = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta"),
    *("tie_word_embeddings", "attention_bias", "attention_output_bias", "mlp_bias", "initializer_range"),
    *("model_type", "bos_token_id", "eos_token_ids", "pad_token_id"),
)


@dataclass(frozen=True)
class GGUFValues:
    """A tensor of a GGUF file in the making: `read` gives its values as the file shall hold them."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def gguf_metadata(config: ModelConfig, name: str) -> dict[str, Any]:
    """The keys that describe a network; `name` becomes general.name.

    Raises:
        ValueError: a family without GGUF architecture here, or an option that its files cannot express.
    """
    architecture = _ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise ValueError(f"model_type {config.model_type!r} has no GGUF architecture here")
    _refuse_inexpressible(config, architecture)
    keys: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope_theta),
    }
    if architecture == "gemma3":
        keys |= {
            "attention.sliding_window": config.sliding_window,
            "attention.sliding_window_pattern": _pattern(config),
            "rope.freq_base_swa": float(config.local_rope_theta or config.rope_theta),
        }
    if config.rope_scaling is not None and config.rope_scaling.kind == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(config.rope_scaling.factor)}
    general = {"general.architecture": architecture, "general.name": name}
    return general | {f"{architecture}.{key}": value for key, value in keys.items()} | _token_ids(config)


def gguf_values(network: Transformer) -> list[GGUFValues]:
    """All tensors of a network under GGUF's names: llama's query and key rows in interleaved rotary order, norms as
    what they multiply by. Quantized weights are dequantized.
    """
    config = replace(network.config, model_type=_ARCHITECTURES[network.config.model_type])
    values = []
    for name, tensor in plain_state_dict(network).items():
        target = gguf_name(name, config.sandwich_norms)
        values.append(GGUFValues(target, tuple(tensor.shape), _reader(target, tensor, config)))
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        inverse = inverse_frequencies(config.head_dim, config.rope_theta)
        factors = inverse / scaled_frequencies(inverse, config.rope_theta, config.rope_scaling)
        values.append(GGUFValues(ROPE_FACTORS, tuple(factors.shape), lambda: factors))
    return values


def _reader(name: str, tensor: Tensor, config: ModelConfig) -> Callable[[], Tensor]:
    def read() -> Tensor:
        values, heads = tensor.detach().cpu().float(), permuted_heads(name, config)
        if config.norm_weight_offset and name.endswith("norm.weight"):
            values = values + config.norm_weight_offset
        if heads:
            halves = values.view(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
            values = halves.transpose(1, 2).reshape(values.shape)
        return values

    return read


def _refuse_inexpressible(config: ModelConfig, architecture: str) -> None:
    if architecture != "gemma3" and (config.sliding_window or 0) >= config.max_position_embeddings:
        config = replace(config, sliding_window=None, layer_types=None)  # a window that nothing leaves
    family: dict[str, Any] = {"qk_norm": architecture == "qwen3"}
    if architecture == "gemma3":
        family = gemma_architecture(config.hidden_size) | {
            "qk_norm": True,
            "hidden_act": "gelu_tanh",
            "sliding_window": config.sliding_window,
            "layer_types": gemma_layer_types(config.num_hidden_layers, _pattern(config)),
            "local_rope_theta": config.local_rope_theta or config.rope_theta,
        }
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "llama3":
        # The file holds one factor, the rest are the published.
        scaling = RopeScaling("llama3", scaling.factor)
    elif scaling is not None and scaling.kind != "linear":
        scaling = None
    expressed = ModelConfig(**{name: getattr(config, name) for name in _FREE}, rope_scaling=scaling, **family)
    lost = differing_fields(config, expressed)
    if lost:
        raise ValueError(f"a GGUF file of {architecture} cannot express this model's {', '.join(lost)}")


def _pattern(config: ModelConfig) -> int:
    """Of so many layers in a row the last attends to everything; as many as there are layers if none does."""
    types = config.layer_types or ()
    return types.index("full_attention") + 1 if "full_attention" in types else config.num_hidden_layers + 1


def _token_ids(config: ModelConfig) -> dict[str, int]:
    """GGUF has room for three tokens that end a text."""
    if len(config.eos_token_ids) > 3:
        warnings.warn(
            f"GGUF holds three tokens that end a text, {config.eos_token_ids[3:]} are left out", stacklevel=4
        )
    named = {"bos": config.bos_token_id, "padding": config.pad_token_id}
    named |= dict(zip(("eos", "eot", "eom"), config.eos_token_ids, strict=False))
    return {f"tokenizer.ggml.{key}_token_id": value for key, value in named.items() if value is not None}
