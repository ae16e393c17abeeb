"""Metadata of GGUF files to `ModelConfig`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pyllm.checkpoints.dequantize import dequantize
from pyllm.checkpoints.gguf import GGUFError, GGUFFile
from pyllm.checkpoints.gguf_names import ROPE_FACTORS, ROPE_LONG, ROPE_SHORT
from pyllm.checkpoints.hf_gemma import (
    GLOBAL_ROPE_THETA,
    LAYERS_PER_PATTERN,
    LOCAL_ROPE_THETA,
    gemma_architecture,
    gemma_layer_types,
)
from pyllm.models.config import MAX_LAYERS, MixtureOfExperts, ModelConfig
from pyllm.models.rope import RopeScaling, scaled_frequencies
from pyllm.nn.rotary import inverse_frequencies

# general.architecture -> model_type; a llama with experts is a Mixtral.
ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "phi3": "phi3",
    "gpt2": "gpt2",
    "command-r": "cohere",
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
}
_LAYER_NORM = ("gpt2", "command-r")
_PARTIAL_ROTARY = ("phi3",)
# Of all Gemma 2 only 27B scales scores by the width per head and not by the head's size; files do not say so.
_GEMMA2_27B_LAYERS = 46


def config_from_gguf(file: GGUFFile) -> ModelConfig:
    """The configuration that the metadata of a GGUF file describes.

    Raises:
        GGUFError: unknown architecture, a missing key, a value of the wrong type, or an option that is not
            supported; names the file and the key.
    """
    try:
        return _config(file)
    except GGUFError as error:
        raise GGUFError(f"{file.path}: {error}") from None
    except ValueError as error:
        raise GGUFError(f"{file.path}: metadata describes an impossible model: {error}") from None


class _Metadata:
    """Typed access to one architecture's keys."""

    def __init__(self, file: GGUFFile, architecture: str) -> None:
        self.values = file.metadata
        self.architecture = architecture

    def integer(self, key: str, default: int | None = None) -> int:
        return int(self._value(key, (int,), default))

    def number(self, key: str, default: float | None = None) -> float:
        return float(self._value(key, (int, float), default))

    def optional(self, key: str) -> float | None:
        """A number that is 0 or absent where it means nothing."""
        return self.number(key, 0.0) or None

    def _value(self, key: str, types: tuple[type, ...], default: Any) -> Any:
        full = f"{self.architecture}.{key}"
        value = self.values.get(full, default)
        if value is None:
            raise GGUFError(f"metadata lacks {full}")
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            # Some files give one value per layer; all alike is one value.
            value = value[0].item()
        if isinstance(value, bool) or not isinstance(value, types):
            shown = f"{type(value).__name__} {str(value)[:40]}"
            raise GGUFError(f"{full} must be one {' or '.join(t.__name__ for t in types)}, got {shown}")
        return value


def _config(file: GGUFFile) -> ModelConfig:
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        known = tuple(ARCHITECTURES)
        raise GGUFError(f"architecture {architecture!r} is not supported, expected one of {known}")
    if file.metadata.get("split.count", 0) not in (0, 1):
        raise GGUFError(
            "the model is split over several files (split.count), which is not supported; merge them"
        )
    metadata = _Metadata(file, architecture)
    heads, hidden = metadata.integer("attention.head_count"), metadata.integer("embedding_length")
    head_dim = metadata.integer("attention.key_length", hidden // max(heads, 1))
    rotary = metadata.integer("rope.dimension_count", head_dim)
    partial = architecture in _PARTIAL_ROTARY
    for key, value in (
        ("attention.value_length", metadata.integer("attention.value_length", head_dim)),
        ("rope.dimension_count", head_dim if partial else rotary),
    ):
        if value != head_dim:
            raise GGUFError(f"{architecture}.{key} must equal the head size {head_dim}")
    if head_dim < 2:
        raise GGUFError(f"{heads} heads for a width of {hidden}")
    tensors = file.tensors
    theta = metadata.number("rope.freq_base", GLOBAL_ROPE_THETA if architecture == "gemma3" else 10000.0)
    eps = "layer_norm_epsilon" if architecture in _LAYER_NORM else "layer_norm_rms_epsilon"
    fused = "blk.0.attn_qkv.bias" in tensors
    options: dict[str, Any] = {"qk_norm": "blk.0.attn_q_norm.weight" in tensors}
    return ModelConfig(
        vocab_size=_vocab_size(file, metadata),
        hidden_size=hidden,
        intermediate_size=metadata.integer("feed_forward_length", _expert_width(metadata)),
        num_hidden_layers=metadata.integer("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=metadata.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        max_position_embeddings=metadata.integer("context_length", 2048),
        rms_norm_eps=metadata.number(f"attention.{eps}"),
        rope_theta=theta,
        rope_scaling=_rope_scaling(file, metadata, rotary, theta),
        rotary_dim=rotary if partial else None,
        tie_word_embeddings="output.weight" not in tensors,
        attention_bias=fused or "blk.0.attn_q.bias" in tensors,
        attention_output_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_down.bias" in tensors,
        **options | _family_options(architecture, metadata),
        bos_token_id=file.metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_ids=_end_tokens(file),
        pad_token_id=file.metadata.get("tokenizer.ggml.padding_token_id"),
    )


def _family_options(architecture: str, metadata: _Metadata) -> dict[str, Any]:
    """Options that no tensor shows."""
    options: dict[str, Any] = {"model_type": ARCHITECTURES[architecture]}
    if metadata.integer("expert_count", 0):
        options["experts"] = _experts(architecture, metadata)
        if architecture == "llama":
            options["model_type"] = "mixtral"
    if architecture in ("gemma2", "gemma3"):
        return options | _gemma_options(architecture, metadata)
    if architecture == "gpt2":
        return options | {
            "norm": "layer_norm",
            "norm_bias": True,
            "position_embedding": "learned",
            "gated_mlp": False,
            "hidden_act": "gelu_tanh",
        }
    if architecture == "command-r":
        return options | {
            "norm": "layer_norm",
            "parallel_block": True,
            "rope_interleaved": True,
            "logit_scale": metadata.number("logit_scale"),
        }
    if architecture == "phi3":
        window = metadata.integer("attention.sliding_window", 0)
        return options | {"sliding_window": window or None}
    return options


def _gemma_options(architecture: str, metadata: _Metadata) -> dict[str, Any]:
    """Files leave out most of Gemma's: the defaults are the published models'."""
    third = architecture == "gemma3"
    if third and metadata.optional("attn_logit_softcapping"):
        raise GGUFError("gemma3.attn_logit_softcapping is not supported")
    pattern = metadata.integer("attention.sliding_window_pattern", LAYERS_PER_PATTERN if third else 2)
    if pattern < 1:
        raise GGUFError(f"{architecture}.attention.sliding_window_pattern must be positive, got {pattern}")
    layers, hidden = metadata.integer("block_count"), metadata.integer("embedding_length")
    options = gemma_architecture(hidden) | {
        "hidden_act": "gelu_tanh",
        "logit_softcap": metadata.optional("final_logit_softcapping"),
        "sliding_window": metadata.integer("attention.sliding_window", None if third else 4096),
        "layer_types": gemma_layer_types(min(layers, MAX_LAYERS + 1), pattern),
    }
    if third:
        return options | {"local_rope_theta": metadata.number("rope.freq_base_swa", LOCAL_ROPE_THETA)}
    if layers == _GEMMA2_27B_LAYERS:
        options["attention_scale"] = (hidden / metadata.integer("attention.head_count")) ** -0.5
    return options | {"attention_softcap": metadata.optional("attn_logit_softcapping")}


def _experts(architecture: str, metadata: _Metadata) -> MixtureOfExperts:
    if architecture not in ("llama", "qwen2moe", "qwen3moe"):
        raise GGUFError(f"{architecture}.expert_count: experts are not supported in this architecture")
    shared = metadata.integer("expert_shared_feed_forward_length", 0) or None
    return MixtureOfExperts(
        metadata.integer("expert_count"),
        metadata.integer("expert_used_count"),
        _expert_width(metadata) or metadata.integer("feed_forward_length"),
        normalize=architecture != "qwen2moe",
        shared_intermediate_size=shared if architecture == "qwen2moe" else None,
    )


def _expert_width(metadata: _Metadata) -> int | None:
    return metadata.integer("expert_feed_forward_length", 0) or None


def _vocab_size(file: GGUFFile, metadata: _Metadata) -> int:
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise GGUFError("token_embd.weight must be a tensor of two dimensions")
    rows = embedding.shape[0]
    if metadata.integer("vocab_size", rows) != rows:
        raise GGUFError(f"{metadata.architecture}.vocab_size differs from the embedding's {rows} rows")
    tokens = len(file.metadata.get("tokenizer.ggml.tokens", ()))
    if tokens > rows:
        raise GGUFError(f"the tokenizer has {tokens} tokens, the embedding only {rows} rows")
    return rows


def _end_tokens(file: GGUFFile) -> tuple[int, ...]:
    keys = (f"tokenizer.ggml.{kind}_token_id" for kind in ("eos", "eot", "eom"))
    ids = [file.metadata[key] for key in keys if isinstance(file.metadata.get(key), int)]
    return tuple(dict.fromkeys(ids))


def _rope_scaling(file: GGUFFile, metadata: _Metadata, rotary: int, theta: float) -> RopeScaling | None:
    if ROPE_LONG in file.tensors or ROPE_SHORT in file.tensors:
        return _longrope(file, metadata, rotary)
    kind = file.metadata.get(f"{metadata.architecture}.rope.scaling.type", "none")
    legacy = metadata.number("rope.scale_linear", 1.0)
    if kind == "linear" or (kind == "none" and legacy != 1.0):
        return RopeScaling("linear", metadata.number("rope.scaling.factor", legacy))
    if kind == "yarn":
        return RopeScaling(
            "yarn",
            metadata.number("rope.scaling.factor"),
            original_max_position_embeddings=metadata.integer("rope.scaling.original_context_length"),
            attention_factor=metadata.optional("rope.scaling.attn_factor"),
        )
    if kind != "none":
        raise GGUFError(f"{metadata.architecture}.rope.scaling.type {kind!r} is not supported")
    return _llama3_scaling(file, rotary, theta) if ROPE_FACTORS in file.tensors else None


def _llama3_scaling(file: GGUFFile, rotary: int, theta: float) -> RopeScaling:
    factors = _factors(file, ROPE_FACTORS, rotary)
    # Only the first of Llama 3's parameters can be read off; the others are the published ones.
    scaling = RopeScaling("llama3", float(factors[-1]))
    inverse = inverse_frequencies(rotary, theta)
    if not torch.allclose(factors, inverse / scaled_frequencies(inverse, theta, scaling), rtol=1e-4):
        raise GGUFError(f"{ROPE_FACTORS} holds other factors than Llama 3's, which is not supported")
    return scaling


def _longrope(file: GGUFFile, metadata: _Metadata, rotary: int) -> RopeScaling:
    original = metadata.integer("rope.scaling.original_context_length")
    if original < 1:
        raise GGUFError(
            f"{metadata.architecture}.rope.scaling.original_context_length must be positive, got {original}"
        )
    return RopeScaling(
        "longrope",
        metadata.integer("context_length") / original,
        original_max_position_embeddings=original,
        attention_factor=metadata.optional("rope.scaling.attn_factor"),
        short_factors=tuple(_factors(file, ROPE_SHORT, rotary).tolist()),
        long_factors=tuple(_factors(file, ROPE_LONG, rotary).tolist()),
    )


def _factors(file: GGUFFile, name: str, rotary: int) -> torch.Tensor:
    """A tensor of factors, one per frequency."""
    info = file.tensors.get(name)
    if info is None or info.type.name != "F32" or info.shape != (rotary // 2,):
        found = "none" if info is None else f"{info.type.name} {info.shape}"
        raise GGUFError(f"{name} must be F32 of shape ({rotary // 2},), got {found}")
    return dequantize(file.tensor_bytes(name), info, torch.float32)
