"""GGUF files of families whose tensors lie otherwise than in transformers: fused, stacked, transposed, with factors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from pyllm.checkpoints import GGUFError, load_checkpoint
from pyllm.nn.mixture_of_experts import QuantizedExpertLinear
from tests.models.hf import ids, make

Kind = gguf.GGMLQuantizationType
_ARCHITECTURES = {
    "mixtral": "llama",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "phi3": "phi3",
    "gpt2": "gpt2",
    "cohere": "command-r",
    "gemma2": "gemma2",
}
_NAMES = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}
_GEMMA = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def tensors(model: PreTrainedModel) -> Iterator[tuple[str, np.ndarray]]:
    """What a converter writes for `model`, spelt out on its own: the reader's tables are under test."""
    config, names = model.config, _NAMES | (_GEMMA if model.config.model_type == "gemma2" else {})
    for name, parameter in model.named_parameters():
        data = parameter.detach().numpy()
        parts = name.split(".")
        prefix = f"blk.{parts[2]}." if parts[1] in ("layers", "h") else ""
        inner = ".".join(parts[3:] if prefix else parts)
        if inner == "mlp.experts.gate_up_proj":
            gate, up = np.split(data, 2, 1)
            yield f"{prefix}ffn_gate_exps.weight", np.ascontiguousarray(gate)
            yield f"{prefix}ffn_up_exps.weight", np.ascontiguousarray(up)
        elif inner == "mlp.experts.down_proj":
            yield f"{prefix}ffn_down_exps.weight", data
        else:
            stem, suffix = inner.rsplit(".", 1)
            if config.model_type == "gpt2" and prefix and data.ndim == 2:
                data = np.ascontiguousarray(data.T)
            if config.model_type == "mixtral" and stem[-6:] in ("q_proj", "k_proj"):
                data = (
                    data.reshape(-1, 2, config.head_dim // 2, data.shape[1])
                    .swapaxes(1, 2)
                    .reshape(data.shape)
                )
            if config.model_type == "gemma2" and "norm" in stem:
                data = data + np.float32(1)
            if stem == "mlp.shared_expert_gate":
                data = data[0]
            yield f"{prefix}{names[stem]}.{suffix}", data


def write(path: Path, model: PreTrainedModel, kinds: dict[str, Kind] | None = None, **extra: Any) -> None:
    """A file of `model`; `kinds` are types of tensors by the ends of their names, `extra` more keys."""
    config = model.config
    architecture = _ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", config.num_attention_heads))
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if hasattr(config, "rope_parameters"):
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(getattr(config, "layer_norm_epsilon", None) or config.layer_norm_eps)
    if architecture.endswith("moe") or config.model_type == "mixtral":
        writer.add_expert_count(
            config.num_local_experts if config.model_type != "qwen2_moe" else config.num_experts
        )
        writer.add_expert_used_count(config.num_experts_per_tok)
    for key, value in extra.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        if isinstance(value, np.ndarray):
            writer.add_tensor(key + ".weight", value)
        else:
            add(f"{architecture}.{key}", value)
    for name, data in tensors(model):
        kind = next((kind for end, kind in (kinds or {}).items() if name.endswith(end)), Kind.F32)
        writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check(path: Path, model: PreTrainedModel, tolerance: float = 1e-5, **options: Any) -> None:
    network = load_checkpoint(path, **options).network
    x = ids(2, 25)
    with torch.no_grad():
        expected = model(x).logits
        assert (network(x) - expected).abs().max() < tolerance * expected.abs().max()


def phi3_keys(model: PreTrainedModel) -> dict[str, Any]:
    config = model.config
    rope = config.rope_parameters
    keys: dict[str, Any] = {}
    head_dim = config.hidden_size // config.num_attention_heads
    keys["rope.dimension_count"] = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    if config.sliding_window:
        keys["attention.sliding_window"] = config.sliding_window
    if rope["rope_type"] == "longrope":
        keys["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
        keys["rope_factors_short"] = np.float32(rope["short_factor"])
        keys["rope_factors_long"] = np.float32(rope["long_factor"])
    return keys


@pytest.mark.parametrize("variant", ["phi3", "phi3-partial-window", "phi3-long", "phi3-short"])
def test_phi3(variant: str, tmp_path: Path) -> None:
    model = make(variant)
    write(tmp_path / "m.gguf", model, **phi3_keys(model))
    check(tmp_path / "m.gguf", model)


def test_gpt2(tmp_path: Path) -> None:
    model = make("gpt2")
    write(tmp_path / "m.gguf", model)
    check(tmp_path / "m.gguf", model)


def test_cohere(tmp_path: Path) -> None:
    model = make("cohere-multi-query")
    write(tmp_path / "m.gguf", model, logit_scale=1.0)
    check(tmp_path / "m.gguf", model)


def test_gemma2(tmp_path: Path) -> None:
    model = make("gemma2")
    for layer in model.model.layers:
        layer.self_attn.scaling = 10**-0.5
    caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "attention.sliding_window": 5}
    write(tmp_path / "m.gguf", model, **caps)
    check(tmp_path / "m.gguf", model)


@pytest.mark.parametrize("variant", ["mixtral", "qwen3_moe"])
def test_experts(variant: str, tmp_path: Path) -> None:
    model = make(variant)
    model.config.sliding_window = None
    width = getattr(model.config, "moe_intermediate_size", model.config.intermediate_size)
    write(tmp_path / "m.gguf", model, expert_feed_forward_length=width)
    check(tmp_path / "m.gguf", model)


def test_shared_expert(tmp_path: Path) -> None:
    model = make("qwen2_moe")
    widths = {"expert_feed_forward_length": 20, "expert_shared_feed_forward_length": 36}
    write(tmp_path / "m.gguf", model, **widths)
    check(tmp_path / "m.gguf", model)


def test_experts_stay_quantized(tmp_path: Path) -> None:
    model = make("qwen3_moe-wide")
    kinds = {"_exps.weight": Kind.Q8_0, "attn_q.weight": Kind.Q8_0}
    write(tmp_path / "m.gguf", model, kinds, expert_feed_forward_length=32)
    network = load_checkpoint(tmp_path / "m.gguf").network
    assert isinstance(network.model.layers[0].mlp.experts.down_proj, QuantizedExpertLinear)
    x = ids(2, 9)
    with torch.no_grad():
        plain = load_checkpoint(tmp_path / "m.gguf", dtype="float32").network(x)
        assert (network(x) - plain).abs().max() < 1e-5 * plain.abs().max()
        # Eight bits: near the model that was written, but not the same.
        assert 0 < (plain - model(x).logits).abs().max() < 0.1 * plain.abs().max()


def test_fused_tensor_of_another_size(tmp_path: Path) -> None:
    model = make("phi3")
    model.config.num_key_value_heads = 3
    write(tmp_path / "m.gguf", model, **phi3_keys(model))
    with pytest.raises(
        GGUFError, match=r"'blk\.0\.attn_qkv\.weight' has shape .* the configuration says 96 rows"
    ):
        load_checkpoint(tmp_path / "m.gguf")
