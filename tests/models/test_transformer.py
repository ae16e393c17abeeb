"""The transformer against transformers: logits, gradients, packed documents, and decoding with a cache."""

from __future__ import annotations

import tempfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import ops
from pyllm.checkpoints import load_checkpoint
from pyllm.checkpoints.hf_names import to_hf
from pyllm.models import ModelConfig, Transformer, preset
from tests.models.hf import VARIANTS, gradients_on_disk, ids, make

# One of each kind of block.
CACHED = ["llama", "mistral-window", "qwen2-windows", "qwen3", "gemma3", "gemma2", "phi3-partial-window"]
CACHED += ["gpt2", "gpt_neo", "cohere-multi-query", "mixtral", "qwen2_moe"]


def ours(variant: str) -> Transformer:
    with tempfile.TemporaryDirectory() as folder:
        make(variant).save_pretrained(folder)
        return load_checkpoint(folder).network


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_gradients(variant: str) -> None:
    theirs, network, x = make(variant), ours(variant), ids(2, 33)
    expected = theirs(x).logits
    logits = network(x)
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()

    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3))
    (expected * weights).sum().backward()
    (logits * weights).sum().backward()
    ours_by_name = {name: parameter.grad for name, parameter in network.named_parameters()}
    gradients = to_hf(network.config, ours_by_name)
    references = gradients_on_disk(theirs)
    assert set(gradients) == set(references)
    for name, reference in references.items():
        assert (gradients[name] - reference).abs().max() < 2e-5 * reference.abs().max() + 1e-9, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    exact, theirs, network, x = make("llama"), make("llama").to(dtype), ours("llama").to(dtype), ids(2, 33)
    with torch.no_grad():
        reference = exact(x).logits
        logits = network(x)
        ours_error = (logits.float() - reference).square().mean().sqrt()
        their_error = (theirs(x).logits.float() - reference).square().mean().sqrt()
    assert logits.dtype == dtype
    assert ours_error < 1.5 * their_error


def test_hidden_states_feed_the_loss() -> None:
    network, x = ours("llama-tied-mha"), ids(2, 12)
    hidden = network.hidden_states(x[:, :-1])
    loss = ops.linear_cross_entropy(hidden, network.lm_head_weight, x[:, 1:])
    logits = network(x[:, :-1])
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())


@given(
    lengths=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=3),
    variant=st.sampled_from([*CACHED, "llama-yarn"]),
)
@settings(max_examples=12, deadline=None)
def test_documents_do_not_see_each_other(lengths: list[list[int]], variant: str) -> None:
    network = _networks(variant)
    tokens = max(sum(row) for row in lengths)
    # The last document of a short row grows to the row's end. Ids repeat, but never side by side.
    rows = [[*row[:-1], row[-1] + tokens - sum(row)] for row in lengths]
    document_ids = torch.tensor([[i % 2 for i, n in enumerate(row) for _ in range(n)] for row in rows])
    x = ids(len(rows), tokens, seed=sum(map(sum, rows)))
    with torch.no_grad():
        packed = network(x, document_ids=document_ids)
        for row, sizes in enumerate(rows):
            start = 0
            for size in sizes:
                alone = network(x[row : row + 1, start : start + size])[0]
                torch.testing.assert_close(packed[row, start : start + size], alone, atol=2e-5, rtol=1e-5)
                start += size


_CACHE: dict[str, Transformer] = {}


def _networks(variant: str) -> Transformer:
    if variant not in _CACHE:
        _CACHE[variant] = ours(variant)
    return _CACHE[variant]


@pytest.mark.parametrize("variant", CACHED)
def test_cached_decoding_equals_the_full_pass(variant: str) -> None:
    network, x = _networks(variant), ids(3, 40)
    lengths = torch.tensor([7, 20, 1])
    rows = torch.arange(3)
    with torch.inference_mode():
        full = network(x)
        cache = network.new_cache(3, capacity=2)
        logits = network(x[:, :20], kv_cache=cache, input_lengths=lengths, last_token_only=True)
        torch.testing.assert_close(logits, full[rows, lengths - 1], atol=2e-5, rtol=1e-5)
        # Chunks of different sizes, among them padded ones.
        for chunk, real in ((1, None), (5, torch.tensor([5, 2, 3])), (1, None), (4, None)):
            columns = cache.lengths[:, None] + torch.arange(chunk)
            expected = full[rows[:, None], columns]
            logits = network(x[rows[:, None], columns], kv_cache=cache, input_lengths=real)
            for row in range(3):
                count = chunk if real is None else int(real[row])
                torch.testing.assert_close(logits[row, :count], expected[row, :count], atol=2e-5, rtol=1e-5)
    assert cache.lengths.tolist() == [7 + 11, 20 + 8, 1 + 9]
    assert cache.longest == 28


def test_rows_of_a_cache_do_not_depend_on_neighbours() -> None:
    network, x = _networks("llama"), ids(4, 30)
    lengths = torch.tensor([3, 30, 11, 17])
    with torch.inference_mode():
        together = network.new_cache(4)
        first = network(x, kv_cache=together, input_lengths=lengths, last_token_only=True)
        second = network(x[:, :1], kv_cache=together)
        for row, length in enumerate(lengths.tolist()):
            alone = network.new_cache(1)
            own = network(x[row : row + 1, :length], kv_cache=alone, last_token_only=True)
            torch.testing.assert_close(first[row], own[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                second[row], network(x[row : row + 1, :1], kv_cache=alone)[0], atol=1e-5, rtol=1e-5
            )


def test_initial_weights() -> None:
    torch.manual_seed(0)
    network = Transformer(preset("tiny", num_hidden_layers=8, attention_bias=True))
    layer = network.model.layers[0]
    assert network.lm_head is None
    assert abs(layer.self_attn.q_proj.weight.std().item() - 0.02) < 0.002
    assert abs(layer.self_attn.o_proj.weight.std().item() - 0.02 / 4) < 0.0005
    assert abs(layer.mlp.down_proj.weight.std().item() - 0.02 / 4) < 0.0005
    assert not layer.self_attn.q_proj.bias.any()
    assert (layer.input_layernorm.weight == 1).all()
    assert sum(p.numel() for p in network.parameters()) == network.config.num_parameters()
    # An untrained model is as surprised as chance.
    x = ids(2, 64, vocab_size=8192)
    loss = torch.nn.functional.cross_entropy(network(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
    assert abs(loss.item() - 9.01) < 0.1


def test_training_may_follow_generation() -> None:
    network, x = ours("llama"), ids(1, 9)
    with torch.inference_mode():
        network(x, kv_cache=network.new_cache(1))
    network(x).sum().backward()
    assert network.model.layers[0].self_attn.q_proj.weight.grad is not None


def test_other_heads_sizes_are_counted() -> None:
    config = ModelConfig(
        13, 24, 10, 2, 3, 1, 6, attention_bias=True, attention_output_bias=True, mlp_bias=True, qk_norm=True
    )
    assert sum(p.numel() for p in Transformer(config).parameters()) == config.num_parameters()


def test_compiles_whole() -> None:
    network, x = ours("llama"), ids(2, 16)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), network(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_ids": torch.tensor([1, 2])}, ValueError, r"input_ids must have shape \(batch, tokens\)"),
        ({"input_ids": torch.ones(1, 2)}, TypeError, "input_ids must be int64"),
        ({"input_ids": torch.tensor([[1, 97]])}, IndexError, r"input_ids must lie in \[0, 97\), got 97"),
        ({"input_ids": torch.tensor([[-1, 5]])}, IndexError, "got -1"),
        ({"document_ids": torch.zeros(2, 3)}, ValueError, "document_ids must have the shape of input_ids"),
        ({"position_ids": torch.zeros(1, 3).long()}, ValueError, "position_ids must have the shape"),
        ({"input_lengths": torch.tensor([5])}, ValueError, r"input_lengths must lie in \[1, 4\]"),
        ({"input_lengths": torch.tensor([0])}, ValueError, r"input_lengths must lie in \[1, 4\]"),
        ({"input_lengths": torch.tensor([1, 2])}, ValueError, r"input_lengths must have shape \(1,\)"),
        ({"kv_cache": "two rows"}, ValueError, "kv_cache has 2 rows, input_ids 1"),
        ({"kv_cache": "one row", "document_ids": torch.zeros(1, 4).long()}, ValueError, "exclude each other"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    network = _networks("llama")
    if "kv_cache" in arguments:
        rows = 2 if arguments["kv_cache"] == "two rows" else 1
        arguments = arguments | {"kv_cache": network.new_cache(rows)}
    with pytest.raises(error, match=message):
        network(**{"input_ids": ids(1, 4)} | arguments)


def test_positions_may_be_given() -> None:
    network, x = _networks("llama"), ids(1, 6)
    with torch.no_grad():
        shifted = network(x, position_ids=torch.arange(500, 506)[None])
        # RoPE is relative: a common shift changes rounding only.
        torch.testing.assert_close(shifted, network(x), atol=1e-3, rtol=1e-3)
        assert not torch.allclose(
            network(x, position_ids=torch.arange(0, 12, 2)[None]), network(x), atol=1e-3
        )
