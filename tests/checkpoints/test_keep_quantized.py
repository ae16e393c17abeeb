"""Quantized files computed in place: the same function as the dequantized weights, without a dequantized copy."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch

import pyllm
from pyllm.checkpoints import load_checkpoint, save_checkpoint
from pyllm.nn.quantized import QuantizedEmbedding, QuantizedLinear
from tests.assets import asset
from tests.checkpoints.test_gguf import SMOLLM2
from tests.checkpoints.test_gguf_model import _wide_llama, write_gguf
from tests.checkpoints.test_quantized_folders import gptq, gptq_settings, write
from tests.models.hf import ids

Kind = gguf.GGMLQuantizationType


def _close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert (ours - expected).abs().max() < 2e-5 * expected.abs().max()


def test_gguf(tmp_path: Path) -> None:
    kinds = {"token_embd": Kind.Q8_0, "attn_q": Kind.Q4_0, "attn_k": Kind.Q5_1, "attn_v": Kind.Q5_0}
    kinds |= {"attn_output": Kind.F16, "ffn_gate": Kind.MXFP4, "ffn_up": Kind.Q4_1, "output": Kind.Q8_0}

    def kind(name: str) -> Kind:
        return kinds.get(name.removeprefix("blk.0.").removesuffix(".weight"), Kind.F32)

    model = _wide_llama()
    write_gguf(tmp_path / "m.gguf", model, kind)
    network = load_checkpoint(tmp_path / "m.gguf").network
    layer = network.model.layers[0]
    assert isinstance(layer.self_attn.q_proj, QuantizedLinear)
    assert layer.self_attn.q_proj.weight.format == "q4_0"
    assert layer.mlp.gate_proj.weight.format == "mxfp4"
    assert isinstance(network.model.embed_tokens, QuantizedEmbedding)
    assert isinstance(network.lm_head, QuantizedLinear)
    assert isinstance(layer.self_attn.o_proj.weight, torch.nn.Parameter)
    assert network.is_quantized
    assert network.dtype == torch.float32
    x = ids(2, 25)
    with torch.no_grad():
        _close(network(x), model(x).logits)

    save_checkpoint(network, tmp_path / "plain")
    plain = load_checkpoint(tmp_path / "plain").network
    assert not plain.is_quantized
    with torch.no_grad():
        _close(plain(x), model(x).logits)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_gptq(bits: int, act_order: bool, tmp_path: Path) -> None:
    write(tmp_path, gptq_settings(bits, 32, "gptq", False), gptq(bits, 32, version=1, act_order=act_order))
    network = load_checkpoint(tmp_path).network
    assert network.is_quantized == (bits != 3)
    plain = load_checkpoint(tmp_path, dtype="float32").network
    x = ids(2, 25, vocab_size=50)
    with torch.no_grad():
        _close(network(x), plain(x))


def test_real_file() -> None:
    """SmolLM2 as stored against its own dequantized weights: log-probabilities, generation, cached and not."""
    path = asset(SMOLLM2)
    model, plain = pyllm.load(path), pyllm.load(path, dtype="float32")
    assert model.network.is_quantized
    assert model.tokenizer is not None
    tokens = model.tokenizer.encode(
        "The rain in Spain stays mainly in the plain, and the river runs to the sea."
    )
    assert (model.log_probs(tokens) - plain.log_probs(tokens)).abs().max() < 1e-3
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ours, theirs = (m.generate(question, max_new_tokens=12)[0] for m in (model, plain))
    assert ours.text == theirs.text == "The capital of France is Paris."
    again = model.log_probs([*ours.prompt_token_ids, *ours.token_ids])
    # Cached, one token at a time, and in one pass: to the bit.
    assert again[-len(ours.token_ids) :].tolist() == ours.logprobs
