"""GPT-3's bands, PaLM's parallel blocks and prefix decoders, against what is written out or masked by hand."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from pyllm.checkpoints import load_checkpoint, save_checkpoint
from pyllm.generation import GenerationConfig, generate
from pyllm.models import Transformer, gpt2_config, gpt3_config, palm_config
from tests.models.hf import ids, make


def test_gpt3_bands(tmp_path: Path) -> None:
    """Odd layers see 4 tokens: with one layer of each kind only tokens within reach of the second matter."""
    torch.manual_seed(0)
    config = gpt3_config(97, 48, 2, 6, band=4, max_position_embeddings=64)
    assert [config.window(layer) for layer in range(2)] == [None, 4]
    network = Transformer(config).eval()
    dense = Transformer(gpt2_config(97, 48, 2, 6, max_position_embeddings=64)).eval()
    dense.load_state_dict(network.state_dict())
    # The first layer writes nothing, so what the last token sees is the band of the second.
    with torch.no_grad():
        for model in (network, dense):
            model.model.layers[0].self_attn.o_proj.weight.zero_()
            model.model.layers[0].self_attn.o_proj.bias.zero_()
    x = ids(1, 12)
    changed = x.clone()
    changed[0, :8] = (changed[0, :8] + 1) % 97
    with torch.no_grad():
        assert torch.equal(network(x)[0, -1], network(changed)[0, -1])
        assert not torch.equal(dense(x)[0, -1], dense(changed)[0, -1])
        assert torch.equal(network(x)[0, :4], dense(x)[0, :4])
    save_checkpoint(network, tmp_path)
    again = load_checkpoint(tmp_path)
    assert again.config == config
    with torch.no_grad():
        assert torch.equal(again.network(x), network(x))


def test_palm() -> None:
    config = palm_config(97, 48, 2, 6, head_dim=8)
    assert (config.num_key_value_heads, config.parallel_block, config.intermediate_size) == (1, True, 192)
    network = Transformer(config)
    assert sum(p.numel() for p in network.parameters()) == config.num_parameters()
    network(ids(1, 5)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def prefixed(theirs: LlamaForCausalLM, x: torch.Tensor, prefixes: list[int]) -> torch.Tensor:
    """transformers' logits under a mask that opens each row's prefix."""
    tokens = x.shape[1]
    mask = torch.ones(len(prefixes), 1, tokens, tokens, dtype=torch.bool).tril()
    for row, prefix in zip(mask, prefixes, strict=True):
        row[:, :, :prefix] = True
    return theirs(x, attention_mask=mask).logits


def test_prefix_decoder(tmp_path: Path) -> None:
    theirs = make("llama")
    theirs.save_pretrained(tmp_path)
    network = load_checkpoint(tmp_path).network
    x, prefixes = ids(3, 20), [7, 1, 20]
    expected = prefixed(theirs, x, prefixes)
    logits = network(x, prefix_lengths=torch.tensor(prefixes))
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3))
    (expected * weights).sum().backward()
    (logits * weights).sum().backward()
    for name, parameter in theirs.named_parameters():
        grad = network.get_parameter(name).grad
        assert grad is not None
        assert parameter.grad is not None
        assert (grad - parameter.grad).abs().max() < 2e-5 * parameter.grad.abs().max(), name

    with torch.no_grad():
        documents = torch.tensor([[0] * 12 + [1] * 8])
        packed = network(x[:1], document_ids=documents, prefix_lengths=torch.tensor([5, 8]))
        for start, end, prefix in ((0, 12, 5), (12, 20, 8)):
            alone = prefixed(theirs, x[:1, start:end], [prefix])[0]
            torch.testing.assert_close(packed[0, start:end], alone, atol=1e-5, rtol=1e-5)
        cache = network.new_cache(1)
        network(x[:1, :7], kv_cache=cache, prefix_lengths=torch.tensor([7]))
        step = network(x[:1, 7:9], kv_cache=cache)
        torch.testing.assert_close(step[0], expected[0, 7:9].detach(), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"prefix_lengths must have shape \(3,\), got \(2,\)"):
        network(x, prefix_lengths=torch.tensor([1, 2]))


@torch.no_grad()
def test_generation_of_a_prefix_decoder() -> None:
    config = dataclasses.replace(palm_config(97, 48, 2, 6, head_dim=8), prefix_decoder=True)
    torch.manual_seed(0)
    network = Transformer(config).eval()
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    prompts = [ids(1, 9, seed=2)[0].tolist(), ids(1, 4, seed=3)[0].tolist()]
    completions = generate(network, prompts, GenerationConfig(max_new_tokens=6))
    for prompt, completion in zip(prompts, completions, strict=True):
        text = copy.copy(prompt)
        for token in completion.token_ids:
            logits = network(torch.tensor([text]), prefix_lengths=torch.tensor([len(prompt)]))
            assert int(logits[0, -1].argmax()) == token
            text.append(token)
