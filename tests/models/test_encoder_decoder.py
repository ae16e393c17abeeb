"""T5 1.0 and 1.1 against transformers: logits, gradients, padding, generation from caches, both directions of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

import pyllm
from pyllm.checkpoints import load_checkpoint, save_checkpoint
from pyllm.generation import GenerationConfig, generate
from pyllm.models import EncoderDecoder
from tests.models.hf import ids

SMALL = {
    "vocab_size": 97,
    "d_model": 48,
    "d_kv": 10,
    "d_ff": 77,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 6,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
VARIANTS = {
    "1.0": {},
    "1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "silu": {"feed_forward_proj": "gated-silu", "num_decoder_layers": 4, "layer_norm_epsilon": 1e-4},
}


def make(variant: str) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(**SMALL | VARIANTS[variant])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def loaded(theirs: T5ForConditionalGeneration, folder: Path) -> EncoderDecoder:
    theirs.save_pretrained(folder)
    network = load_checkpoint(folder).network
    assert isinstance(network, EncoderDecoder)
    return network


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_gradients_and_files(variant: str, tmp_path: Path) -> None:
    theirs = make(variant)
    network = loaded(theirs, tmp_path / "theirs")
    x, y, lengths = ids(3, 33), ids(3, 29, seed=4), torch.tensor([33, 6, 21])
    mask = (torch.arange(33) < lengths[:, None]).long()
    expected = theirs(input_ids=x, attention_mask=mask, decoder_input_ids=y).logits
    logits = network(x, y, input_lengths=lengths)
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    assert sum(p.numel() for p in network.parameters()) == network.config.num_parameters()

    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3))
    (expected * weights).sum().backward()
    (logits * weights).sum().backward()
    pairs = (
        (network.embed_tokens.weight, theirs.shared.weight),
        (
            network.encoder.relative_bias.weight,
            theirs.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight,
        ),
        (
            network.decoder.relative_bias.weight,
            theirs.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight,
        ),
        (
            network.decoder.layers[1].cross_attn.k_proj.weight,
            theirs.decoder.block[1].layer[1].EncDecAttention.k.weight,
        ),
    )
    for ours, reference in pairs:
        assert ours.grad is not None
        assert (ours.grad - reference.grad).abs().max() < 2e-5 * reference.grad.abs().max()

    save_checkpoint(network, tmp_path / "ours")
    back = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        again, once = (
            m(input_ids=x, attention_mask=mask, decoder_input_ids=y).logits for m in (back, theirs)
        )
    assert torch.equal(again, once)
    assert load_checkpoint(tmp_path / "ours").config == network.config


def test_a_head_of_its_own(tmp_path: Path) -> None:
    theirs = make("1.1")
    theirs.lm_head.weight = torch.nn.Parameter(torch.randn(97, 48))
    theirs.config.save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text()) | {
        "architectures": ["T5ForConditionalGeneration"]
    }
    (tmp_path / "config.json").write_text(json.dumps(data))
    state = {name: t for name, t in theirs.state_dict().items() if "embed_tokens" not in name}
    save_file(state, tmp_path / "model.safetensors")
    network = load_checkpoint(tmp_path).network
    x, y = ids(2, 9), ids(2, 7)
    with torch.no_grad():
        expected = theirs(input_ids=x, decoder_input_ids=y).logits
        assert (network(x, y) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("variant", ["1.0", "1.1"])
def test_generation(variant: str, tmp_path: Path) -> None:
    """Prompts of different lengths together, from caches, as transformers does one by one."""
    theirs = make(variant)
    network = loaded(theirs, tmp_path)
    prompts = [ids(1, n, seed=n)[0].tolist() for n in (4, 17, 9)]
    config = GenerationConfig(max_new_tokens=24)
    completions = generate(network, prompts, config, eos_token_ids=(1,))
    for prompt, completion in zip(prompts, completions, strict=True):
        with torch.no_grad():
            new = theirs.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, 1:].tolist()
        assert completion.token_ids == new
        # Each log-probability is that of the full pass.
        target = torch.tensor([[0, *completion.token_ids]])
        with torch.no_grad():
            full = network(torch.tensor([prompt]), target[:, :-1]).log_softmax(-1)[0]
        expected = full.gather(1, target[0, 1:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


def test_facade_and_errors(tmp_path: Path) -> None:
    make("1.0").save_pretrained(tmp_path)
    model = pyllm.load(tmp_path)
    assert len(model.generate([5, 6, 7], max_new_tokens=3)[0].token_ids) <= 3
    with pytest.raises(TypeError, match="log_probs needs a decoder"):
        model.log_probs([1, 2])
    with pytest.raises(IndexError, match=r"decoder_input_ids must lie in \[0, 97\), got 97"):
        model.network(ids(1, 3), torch.tensor([[97]]))
    data = json.loads((tmp_path / "config.json").read_text())
    for changes, message in (
        ({"feed_forward_proj": "gated-relu"}, "feed_forward_proj must be one of"),
        ({"num_layers": 2}, r"encoder\.block\.2.* not expected by t5"),
        ({"num_layers": 4}, r"encoder\.layers\.3.* missing"),
        ({"relative_attention_num_buckets": 6}, "relative_buckets must be a multiple of 4"),
        ({"d_model": "48"}, "d_model must be a positive integer"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(data | changes))
        with pytest.raises(ValueError, match=message) as caught:
            load_checkpoint(tmp_path)
        assert str(tmp_path) in str(caught.value)
