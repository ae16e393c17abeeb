"""Models stored as GGUF: files made with the gguf package from transformers' models give transformers' logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from pyllm.checkpoints import GGUFError, load_checkpoint, read_gguf
from pyllm.checkpoints.gguf_names import state_dict_name
from tests.models.hf import ids, make

Kind = gguf.GGMLQuantizationType
# Transformers' names to GGUF's, written out here on their own: the reader's table is what is under test.
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

_GEMMA_LAYER = _LAYER | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def _gguf_name(name: str, layer_names: dict[str, str] = _LAYER) -> str:
    stem, suffix = name.rsplit(".", 1)
    if stem in _TOP:
        return f"{_TOP[stem]}.{suffix}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{layer_names[rest]}.{suffix}"


def _permuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from (half, pair) to (pair, half), as converters store llama's q and k."""
    split = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return split.swapaxes(1, 2).reshape(weights.shape)


def _metadata(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_eos_token_id(2)


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    kind: Callable[[str], Kind] = lambda name: Kind.F32,
    edit: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
    skip: tuple[str, ...] = (),
) -> None:
    """Store `model` with matrices in the types that `kind` picks, and read them back into it: what it now computes
    is what the file says."""
    config = model.config
    is_gemma = config.model_type == "gemma3_text"
    writer = gguf.GGUFWriter(path, config.model_type.removesuffix("_text"))
    _metadata(writer, config)
    edit(writer)
    for name, parameter in model.named_parameters():
        data, target = parameter.detach().numpy(), _gguf_name(name, _GEMMA_LAYER if is_gemma else _LAYER)
        if target in skip:
            continue
        chosen = kind(target) if data.ndim == 2 else Kind.F32
        # Gemma's norms multiply by one more than transformers' weight.
        shift = np.float32(is_gemma and target.endswith("norm.weight"))
        blocks = gguf.quants.quantize(data + shift, chosen)
        with torch.no_grad():
            parameter.copy_(
                torch.from_numpy(gguf.quants.dequantize(blocks, chosen).reshape(data.shape) - shift)
            )
        if config.model_type == "llama" and ".attn_q." in target:
            blocks = _permuted(blocks, config.num_attention_heads)
        if config.model_type == "llama" and ".attn_k." in target:
            blocks = _permuted(blocks, config.num_key_value_heads)
        writer.add_tensor(target, blocks, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check_logits(path: Path, model: PreTrainedModel) -> None:
    network = load_checkpoint(path, dtype="float32").network
    x = ids(2, 25)
    with torch.no_grad():
        expected = model(x).logits
        assert (network(x) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("variant", ["llama", "llama-tied-mha", "llama-biases", "qwen2", "qwen3"])
def test_families(variant: str, tmp_path: Path) -> None:
    model = make(variant)
    write_gguf(tmp_path / "m.gguf", model)
    _check_logits(tmp_path / "m.gguf", model)
    checkpoint = load_checkpoint(tmp_path / "m.gguf")
    assert checkpoint.network.dtype == torch.float32
    assert checkpoint.config.tie_word_embeddings == model.config.tie_word_embeddings
    assert checkpoint.config.eos_token_ids == (2,)
    assert checkpoint.tokenizer_path is None


def test_gemma(tmp_path: Path) -> None:
    """The file says the window alone; pattern and the local layers' RoPE base are the published models'."""
    model = make("gemma3")
    model.config.layer_types = ["sliding_attention"] * model.config.num_hidden_layers
    for layer in model.model.layers:
        layer.self_attn.sliding_window, layer.self_attn.layer_type = 5, "sliding_attention"

    def edit(writer: gguf.GGUFWriter) -> None:
        writer.add_sliding_window(5)

    write_gguf(tmp_path / "m.gguf", model, edit=edit)
    _check_logits(tmp_path / "m.gguf", model)
    config = load_checkpoint(tmp_path / "m.gguf").config
    assert (config.local_rope_theta, config.embedding_scale) == (10000.0, 48**0.5)

    def capped(writer: gguf.GGUFWriter) -> None:
        edit(writer)
        writer.add_float32("gemma3.attn_logit_softcapping", 30.0)

    write_gguf(tmp_path / "m.gguf", model, edit=capped)
    with pytest.raises(GGUFError, match=r"gemma3\.attn_logit_softcapping is not supported"):
        load_checkpoint(tmp_path / "m.gguf")


def test_gemma_pattern(tmp_path: Path) -> None:
    model = make("gemma3")

    def edit(writer: gguf.GGUFWriter) -> None:
        writer.add_sliding_window(5)
        writer.add_uint32("gemma3.attention.sliding_window_pattern", 2)

    write_gguf(tmp_path / "m.gguf", model, edit=edit)
    _check_logits(tmp_path / "m.gguf", model)


def _wide_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def test_mixed_types(tmp_path: Path) -> None:
    kinds = {"token_embd": Kind.Q8_0, "attn_q": Kind.Q4_0, "attn_k": Kind.Q5_1, "attn_v": Kind.Q5_0}
    kinds |= {"attn_output": Kind.F16, "ffn_gate": Kind.BF16, "ffn_up": Kind.Q4_1, "output": Kind.Q8_0}

    def kind(name: str) -> Kind:
        return kinds.get(name.removeprefix("blk.0.").removesuffix(".weight"), Kind.F32)

    model = _wide_llama()
    write_gguf(tmp_path / "m.gguf", model, kind)
    _check_logits(tmp_path / "m.gguf", model)
    stored = {info.type.name for info in read_gguf(tmp_path / "m.gguf").tensors.values()}
    assert stored == {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"}
    assert load_checkpoint(tmp_path / "m.gguf").network.dtype == torch.float32


@pytest.mark.parametrize(("kind", "dtype"), [(Kind.F16, torch.float16), (Kind.BF16, torch.bfloat16)])
def test_auto_dtype_follows_the_matrices(kind: Kind, dtype: torch.dtype, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", make("llama"), lambda name: kind)
    assert load_checkpoint(tmp_path / "m.gguf").network.dtype == dtype


def test_llama3_frequencies(tmp_path: Path) -> None:
    model = make("llama-mqa-llama3")
    # Llama 3's own base and context: the file holds the factors alone, the reader knows the rest.
    model.config.rope_parameters |= {"rope_theta": 500000.0, "original_max_position_embeddings": 8192}
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    plain = 1.0 / (500000.0 ** (torch.arange(0, 10, 2) / 10))
    factors = (plain / model.model.rotary_emb.inv_freq).numpy().astype(np.float32)
    assert factors[-1] == 8

    def edit(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", factors)

    write_gguf(tmp_path / "m.gguf", model, edit=edit)
    _check_logits(tmp_path / "m.gguf", model)

    factors = factors * np.float32(1.5)
    write_gguf(tmp_path / "m.gguf", model, edit=edit)
    with pytest.raises(GGUFError, match=r"rope_freqs\.weight holds other factors than Llama 3's"):
        load_checkpoint(tmp_path / "m.gguf")


def test_linear_rope(tmp_path: Path) -> None:
    model = make("llama-linear-rope")

    def edit(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(2.5)

    write_gguf(tmp_path / "m.gguf", model, edit=edit)
    _check_logits(tmp_path / "m.gguf", model)


def _add(method: str, *values: object) -> Callable[[gguf.GGUFWriter], None]:
    return lambda writer: getattr(writer, method)(*values)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_add("add_string", "llama.rope.scaling.type", "ntk"), "'ntk' is not supported"),
        (_add("add_rope_scaling_type", gguf.RopeScalingType.YARN), "lacks llama.rope.scaling.factor"),
        (_add("add_expert_count", 8), "lacks llama.expert_used_count"),
        (_add("add_uint16", "split.count", 3), "split over several files"),
        (_add("add_uint32", "llama.block_count", 2), r"blk|model\.layers\.2.* not expected"),
        (_add("add_uint32", "llama.block_count", 5000), "num_hidden_layers must be at most"),
        (_add("add_uint32", "llama.block_count", 4), r"model\.layers\.3.* missing"),
        (_add("add_uint64", "llama.embedding_length", 1 << 40), "parameters, the file holds"),
        (
            _add("add_uint32", "llama.attention.head_count", 0),
            "num_attention_heads must be a positive integer",
        ),
        (
            _add("add_int32", "llama.attention.head_count", -6),
            "num_attention_heads must be a positive integer",
        ),
        (_add("add_uint32", "llama.attention.head_count_kv", 3), "has shape"),
        (_add("add_array", "llama.attention.head_count_kv", [2, 2, 1]), "head_count_kv must be one int"),
        (_add("add_string", "llama.embedding_length", "48"), "embedding_length must be one int, got str"),
        (
            _add("add_bool", "llama.feed_forward_length", True),
            "feed_forward_length must be one int, got bool",
        ),
        (_add("add_float32", "llama.rope.freq_base", float("nan")), "rope_theta must be a positive number"),
        (_add("add_uint32", "llama.attention.value_length", 8), "must equal the head size 10"),
        (_add("add_uint32", "llama.rope.dimension_count", 4), "must equal the head size 10"),
        (_add("add_uint32", "llama.vocab_size", 98), "vocab_size differs from the embedding's 97 rows"),
        (_add("add_token_list", ["x"] * 98), "the tokenizer has 98 tokens, the embedding only 97 rows"),
        (_add("add_string", "tokenizer.ggml.bos_token_id", "x"), "bos_token_id must be an integer"),
        (_add("add_array", "general.architecture", ["llama", "llama"]), "architecture"),
        (_add("add_string", "general.architecture", "mamba"), "architecture 'mamba' is not supported"),
    ],
)
def test_metadata_that_does_not_fit(
    edit: Callable[[gguf.GGUFWriter], None], message: str, tmp_path: Path
) -> None:
    def override(writer: gguf.GGUFWriter) -> None:
        kept = [dict(values) for values in writer.kv_data]
        for values in writer.kv_data:
            values.clear()
        edit(writer)
        for values, old in zip(writer.kv_data, kept, strict=True):
            for key, value in old.items():
                values.setdefault(key, value)

    write_gguf(tmp_path / "m.gguf", make("llama"), edit=override)
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(tmp_path / "m.gguf")
    assert str(tmp_path) in str(caught.value)


def test_one_value_per_layer_may_be_all_alike(tmp_path: Path) -> None:
    model = make("llama")

    def edit(writer: gguf.GGUFWriter) -> None:
        del writer.kv_data[0]["llama.attention.head_count_kv"]
        writer.add_array("llama.attention.head_count_kv", [2, 2, 2])

    write_gguf(tmp_path / "m.gguf", model, edit=edit)
    _check_logits(tmp_path / "m.gguf", model)


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, make("llama"), skip=("blk.1.ffn_up.weight",))
    with pytest.raises(ValueError, match=r"tensor 'model\.layers\.1\.mlp\.up_proj\.weight' missing"):
        load_checkpoint(path)
    write_gguf(path, make("llama"), edit=_add("add_tensor", "blk.0.surprise.weight", np.ones(3, np.float32)))
    with pytest.raises(ValueError, match=r"tensor 'blk\.0\.surprise\.weight' not expected"):
        load_checkpoint(path)
    write_gguf(path, make("llama"), skip=("token_embd.weight",))
    with pytest.raises(GGUFError, match=r"token_embd\.weight must be a tensor of two dimensions"):
        load_checkpoint(path)

    def unsupported(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("blk.0.extra.weight", np.zeros((1, 66), np.uint8), raw_dtype=Kind.IQ2_XXS)

    write_gguf(path, make("llama"), edit=unsupported)
    with pytest.raises(GGUFError, match=r"'blk\.0\.extra\.weight' has type IQ2_XXS, which is not supported"):
        load_checkpoint(path)


def test_names() -> None:
    assert state_dict_name("blk.12.attn_q.bias") == "model.layers.12.self_attn.q_proj.bias"
    assert state_dict_name("output.weight") == "lm_head.weight"
    for unknown in ("attn_q.weight", "blk.0.output.weight", "blk.x.attn_q.weight", "blk.0.attn_q.scale", "a"):
        assert state_dict_name(unknown) == unknown
