"""Tensor names of GGUF files to those of our state dict."""

from __future__ import annotations

import re

from pyllm.models.config import ModelConfig

# Factors of RoPE: part of the configuration, not of the network.
ROPE_FACTORS = "rope_freqs.weight"
ROPE_LONG, ROPE_SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
_TOP = {
    "token_embd": "model.embed_tokens",
    "position_embd": "model.embed_positions",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER = {
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
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
}
# Gemma's norms on both sides of attention and MLP.
_SANDWICH_LAYER = _LAYER | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def state_dict_name(name: str, sandwich_norms: bool = False) -> str:
    """GGUF's name to the state dict's: "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight".

    A name without a rule is returned as it is, to be refused by the loader.
    """
    match = re.fullmatch(r"(?:blk\.(\d{1,5})\.)?(\w+)\.(weight|bias)", name)
    if match is None:
        return name
    layer, stem, suffix = match.groups()
    if layer is None:
        return f"{_TOP[stem]}.{suffix}" if stem in _TOP else name
    target = (_SANDWICH_LAYER if sandwich_norms else _LAYER).get(stem)
    return name if target is None else f"model.layers.{int(layer)}.{target}.{suffix}"


def gguf_name(name: str, sandwich_norms: bool = False) -> str:
    """The inverse of `state_dict_name`."""
    names = {ours: stored for stored, ours in (_SANDWICH_LAYER if sandwich_norms else _LAYER).items()}
    names |= {ours: stored for stored, ours in _TOP.items()}
    stem, suffix = name.rsplit(".", 1)
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    return f"{names[stem]}.{suffix}" if layer is None else f"blk.{layer[1]}.{names[layer[2]]}.{suffix}"


def fused_parts(name: str, config: ModelConfig) -> list[tuple[str, int]]:
    """(our name, rows) of the tensors that a GGUF tensor holds one behind another; empty if it holds a single one."""
    match = re.fullmatch(r"blk\.(\d{1,5})\.(attn_qkv|ffn_up)\.(weight|bias)", name)
    if match is None or (match[2] == "ffn_up" and config.model_type != "phi3"):
        return []
    prefix, suffix = f"model.layers.{int(match[1])}.", match[3]
    if match[2] == "ffn_up":
        size = config.intermediate_size
        return [(f"{prefix}mlp.{part}_proj.{suffix}", size) for part in ("gate", "up")]
    heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    return [
        (f"{prefix}self_attn.{part}_proj.{suffix}", count * config.head_dim)
        for part, count in zip("qkv", heads, strict=True)
    ]
