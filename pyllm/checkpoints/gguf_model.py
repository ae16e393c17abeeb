"""Decoders stored as GGUF: metadata to `ModelConfig`, tensor names to state-dict names."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyllm.checkpoints.dequantize import DTYPES, check_supported, dequantize
from pyllm.checkpoints.gguf import GGUFError, GGUFFile, TensorInfo
from pyllm.checkpoints.hf_gemma import (
    GLOBAL_ROPE_THETA,
    LAYERS_PER_PATTERN,
    LOCAL_ROPE_THETA,
    gemma_architecture,
    gemma_layer_types,
)
from pyllm.checkpoints.stored import StoredTensor
from pyllm.models.config import MAX_LAYERS, ModelConfig, RopeScaling
from pyllm.models.rope import scaled_frequencies
from pyllm.nn.rotary import inverse_frequencies
from pyllm.ops import QuantizedTensor

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
ROPE_FACTORS = "rope_freqs.weight"
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Gemma's norms on both sides of attention and MLP.
_SANDWICH_NAMES = _NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


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


def model_tensors(file: GGUFFile, config: ModelConfig) -> dict[str, StoredTensor]:
    """The file's tensors under state-dict names, dequantized when read; RoPE factors are left out."""
    return {
        state_dict_name(info.name, config.sandwich_norms): _stored(file, info, config)
        for info in file.tensors.values()
        if info.name != ROPE_FACTORS
    }


def state_dict_name(name: str, sandwich_norms: bool = False) -> str:
    """GGUF's name to the state dict's: "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight".

    A name without a rule is returned as it is, to be refused by the loader.
    """
    match = re.fullmatch(r"(?:blk\.(\d{1,5})\.)?(\w+)\.(weight|bias)", name)
    names = _SANDWICH_NAMES if sandwich_norms else _NAMES
    if match is None or match[2] not in names:
        return name
    target = names[match[2]]
    in_layer = not target.startswith(("model.", "lm_head"))
    if in_layer != (match[1] is not None):
        return name
    prefix = f"model.layers.{int(match[1])}." if in_layer else ""
    return f"{prefix}{target}.{match[3]}"


def gguf_name(name: str, sandwich_norms: bool = False) -> str:
    """The inverse of `state_dict_name`."""
    names = {ours: stored for stored, ours in (_SANDWICH_NAMES if sandwich_norms else _NAMES).items()}
    stem, suffix = name.rsplit(".", 1)
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    return f"{names[stem]}.{suffix}" if layer is None else f"blk.{layer[1]}.{names[layer[2]]}.{suffix}"


class _Metadata:
    """Typed access to one architecture's keys."""

    def __init__(self, file: GGUFFile, architecture: str) -> None:
        self.values = file.metadata
        self.architecture = architecture

    def integer(self, key: str, default: int | None = None) -> int:
        return int(self._value(key, (int,), default))

    def number(self, key: str, default: float | None = None) -> float:
        return float(self._value(key, (int, float), default))

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
    if architecture not in ARCHITECTURES:
        raise GGUFError(f"architecture {architecture!r} is not supported, expected one of {ARCHITECTURES}")
    if file.metadata.get("split.count", 0) not in (0, 1):
        raise GGUFError(
            "the model is split over several files (split.count), which is not supported; merge them"
        )
    metadata = _Metadata(file, architecture)
    if metadata.integer("expert_count", 0):
        raise GGUFError(f"{architecture}.expert_count: mixtures of experts are not supported")
    heads, hidden = metadata.integer("attention.head_count"), metadata.integer("embedding_length")
    head_dim = metadata.integer("attention.key_length", hidden // max(heads, 1))
    for key in ("attention.value_length", "rope.dimension_count"):
        if metadata.integer(key, head_dim) != head_dim:
            raise GGUFError(f"{architecture}.{key} must equal the head size {head_dim}")
    if head_dim < 2:
        raise GGUFError(f"{heads} heads for a width of {hidden}")
    tensors = file.tensors
    theta = metadata.number("rope.freq_base", _default_rope_theta(architecture))
    return ModelConfig(
        vocab_size=_vocab_size(file, metadata),
        hidden_size=hidden,
        intermediate_size=metadata.integer("feed_forward_length"),
        num_hidden_layers=metadata.integer("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=metadata.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        max_position_embeddings=metadata.integer("context_length", 2048),
        rms_norm_eps=metadata.number("attention.layer_norm_rms_epsilon"),
        rope_theta=theta,
        rope_scaling=_rope_scaling(file, metadata, head_dim, theta),
        tie_word_embeddings="output.weight" not in tensors,
        attention_bias="blk.0.attn_q.bias" in tensors,
        attention_output_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_down.bias" in tensors,
        **{"qk_norm": "blk.0.attn_q_norm.weight" in tensors} | _family_options(architecture, metadata),
        model_type=architecture,
        bos_token_id=file.metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_ids=_end_tokens(file),
        pad_token_id=file.metadata.get("tokenizer.ggml.padding_token_id"),
    )


def _family_options(architecture: str, metadata: _Metadata) -> dict[str, Any]:
    """Options that no tensor shows. Files leave out most of Gemma 3's: the defaults are the published models'."""
    if architecture != "gemma3":
        return {}
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if metadata.number(key, 0.0):
            raise GGUFError(f"gemma3.{key} is not supported")
    pattern = metadata.integer("attention.sliding_window_pattern", LAYERS_PER_PATTERN)
    if pattern < 1:
        raise GGUFError(f"gemma3.attention.sliding_window_pattern must be positive, got {pattern}")
    layers = metadata.integer("block_count")
    return gemma_architecture(metadata.integer("embedding_length")) | {
        "sliding_window": metadata.integer("attention.sliding_window"),
        "layer_types": gemma_layer_types(min(layers, MAX_LAYERS + 1), pattern),
        "local_rope_theta": metadata.number("rope.freq_base_swa", LOCAL_ROPE_THETA),
    }


def _default_rope_theta(architecture: str) -> float:
    return GLOBAL_ROPE_THETA if architecture == "gemma3" else 10000.0


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


def _rope_scaling(file: GGUFFile, metadata: _Metadata, head_dim: int, theta: float) -> RopeScaling | None:
    kind = file.metadata.get(f"{metadata.architecture}.rope.scaling.type", "none")
    legacy = metadata.number("rope.scale_linear", 1.0)
    if kind == "linear" or (kind == "none" and legacy != 1.0):
        return RopeScaling("linear", metadata.number("rope.scaling.factor", legacy))
    if kind != "none":
        raise GGUFError(f"{metadata.architecture}.rope.scaling.type {kind!r} is not supported")
    return _llama3_scaling(file, head_dim, theta) if ROPE_FACTORS in file.tensors else None


def _llama3_scaling(file: GGUFFile, head_dim: int, theta: float) -> RopeScaling:
    info = file.tensors[ROPE_FACTORS]
    if info.type.name != "F32" or info.shape != (head_dim // 2,):
        raise GGUFError(
            f"{ROPE_FACTORS} must be F32 of shape ({head_dim // 2},), got {info.type.name} {info.shape}"
        )
    factors = dequantize(file.tensor_bytes(ROPE_FACTORS), info, torch.float32)
    # Only the first of Llama 3's parameters can be read off; the others are the published ones.
    scaling = RopeScaling("llama3", float(factors[-1]))
    inverse = inverse_frequencies(head_dim, theta)
    if not torch.allclose(factors, inverse / scaled_frequencies(inverse, scaling), rtol=1e-4):
        raise GGUFError(f"{ROPE_FACTORS} holds other factors than Llama 3's, which is not supported")
    return scaling


def _stored(file: GGUFFile, info: TensorInfo, config: ModelConfig) -> StoredTensor:
    try:
        check_supported(info)
    except GGUFError as error:
        raise GGUFError(f"{file.path}: {error}") from None

    def data_in_order() -> np.ndarray:
        data, heads = file.tensor_bytes(info.name), permuted_heads(info.name, config)
        return _unpermute(data, info, heads) if heads else data

    def read(dtype: torch.dtype) -> Tensor:
        data = data_in_order()
        if config.norm_weight_offset and info.name.endswith("norm.weight"):
            # The file holds what norms multiply by, the network what is added to the offset.
            return (dequantize(data, info, torch.float32) - config.norm_weight_offset).to(dtype)
        return dequantize(data, info, dtype)

    def quantized() -> QuantizedTensor:
        raw, shape = torch.from_numpy(data_in_order()), (info.shape[0], info.shape[1])
        release = lambda nbytes: file.release(info.name, nbytes)  # noqa: E731
        return QuantizedTensor.from_blocks(info.type.name, raw, shape, on_bytes=release)

    if info.type.name in DTYPES or len(info.shape) != 2:
        return StoredTensor(info.shape, DTYPES.get(info.type.name), info.nbytes, read)
    rows = lambda: torch.from_numpy(data_in_order().reshape(info.shape[0], -1))  # noqa: E731
    return StoredTensor(info.shape, None, info.nbytes, read, quantized, (info.type.name, rows))


def permuted_heads(name: str, config: ModelConfig) -> int:
    """Heads whose rows are stored in interleaved rotary order: llama's query and key projections."""
    if config.model_type != "llama":
        return 0
    if re.fullmatch(r"blk\.\d+\.attn_q\.(weight|bias)", name):
        return config.num_attention_heads
    return config.num_key_value_heads if re.fullmatch(r"blk\.\d+\.attn_k\.(weight|bias)", name) else 0


def _unpermute(data: np.ndarray, info: TensorInfo, heads: int) -> np.ndarray:
    """Rows (pair, half) of each head back to (half, pair), on the stored bytes: blocks never span rows."""
    pairs = info.shape[0] // heads // 2
    return np.ascontiguousarray(data.reshape(heads, pairs, 2, -1).swapaxes(1, 2)).reshape(-1)
