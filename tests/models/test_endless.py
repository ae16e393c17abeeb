"""Sinks and recent tokens: against attention written out in float64, and to the bit in any chunks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyllm.models import EndlessWindow, Transformer, new_paged_caches, paged_hidden_states, preset
from tests.models.hf import ids
from tests.models.test_transformer import ours

TOKENS, PAGE_SIZE = 60, 16


def paged(
    network: Transformer, text: Tensor, window: EndlessWindow, chunk: int, forget: bool = False
) -> Tensor:
    """Hidden states; with `forget` pages between sinks and recent tokens are page 0, which holds NaN."""
    pages = -(-len(text) // PAGE_SIZE)
    caches = new_paged_caches(network.config, pages + 1, page_size=PAGE_SIZE, dtype=network.dtype)
    for cache in caches:
        cache.data.fill_(torch.nan)
    hidden = []
    for start in range(0, len(text), chunk):
        new = text[start : start + chunk]
        table = torch.arange(1, pages + 1)[None]
        if forget:
            sinks = -(-window.sink_tokens // PAGE_SIZE)
            table[0, sinks : max(sinks, (start + 1 - window.recent_tokens) // PAGE_SIZE)] = 0
        hidden.append(
            paged_hidden_states(
                network,
                new,
                torch.arange(start, start + len(new)),
                caches,
                table,
                torch.tensor([start + len(new)]),
                torch.tensor([0, len(new)], dtype=torch.int32),
                endless=window,
            )
        )
    return torch.cat(hidden)


def rotate(x: Tensor, place: int, theta: float) -> Tensor:
    """RoPE of x (..., dim) at `place`, the two halves of a head paired."""
    half = x.shape[-1] // 2
    angles = place * theta ** -(torch.arange(half, dtype=torch.float64) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def by_hand(network: Transformer, text: Tensor, window: EndlessWindow) -> Tensor:
    """A LLaMA written out in float64: each token attends to the tokens that it sees, renumbered from 0."""
    config = network.config
    weights = {name: weight.double() for name, weight in network.state_dict().items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weights[name]

    x = weights["model.embed_tokens.weight"][text]
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}"
        normed = norm(x, f"{at}.input_layernorm.weight")
        q, k, v = (
            (normed @ weights[f"{at}.self_attn.{name}_proj.weight"].T).unflatten(-1, (-1, config.head_dim))
            for name in "qkv"
        )
        rows = []
        for token in range(len(text)):
            seen = [
                key
                for key in range(token + 1)
                if key < window.sink_tokens or key > token - window.recent_tokens
            ]
            keys = torch.stack(
                [rotate(k[key], place, config.rope_theta) for place, key in enumerate(seen)], 1
            )
            group = config.num_attention_heads // config.num_key_value_heads
            keys, values = (
                keys.repeat_interleave(group, 0),
                v[seen].transpose(0, 1).repeat_interleave(group, 0),
            )
            query = rotate(q[token], len(seen) - 1, config.rope_theta)
            scores = torch.einsum("hd,hkd->hk", query, keys) / math.sqrt(config.head_dim)
            rows.append(torch.einsum("hk,hkd->hd", scores.softmax(-1), values).flatten())
        x = x + torch.stack(rows) @ weights[f"{at}.self_attn.o_proj.weight"].T
        normed = norm(x, f"{at}.post_attention_layernorm.weight")
        gate, up = (normed @ weights[f"{at}.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (torch.nn.functional.silu(gate) * up) @ weights[f"{at}.mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight")


@pytest.mark.parametrize("window", [EndlessWindow(4, 13), EndlessWindow(0, 9), EndlessWindow(20, 1)], ids=str)
@torch.inference_mode()
def test_the_definition(window: EndlessWindow) -> None:
    network, text = ours("llama-tied-mha"), ids(1, TOKENS)[0]
    expected = by_hand(network, text, window)
    assert (paged(network, text, window, 7) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", ["llama", "gemma3", "qwen3-yarn-mscale", "cohere", "phi3-partial-window"])
@torch.inference_mode()
def test_the_bits_do_not_depend_on_chunks(variant: str, dtype: torch.dtype) -> None:
    network, text, window = ours(variant).to(dtype), ids(1, TOKENS)[0], EndlessWindow(3, 11)
    whole = paged(network, text, window, TOKENS)
    for chunk in (1, 7, 25):
        assert torch.equal(paged(network, text, window, chunk, forget=True), whole)


@torch.inference_mode()
def test_a_text_that_is_seen_whole_is_an_ordinary_one() -> None:
    network, text = ours("llama"), ids(1, TOKENS)[0]
    expected = network.hidden_states(text[None])[0]
    assert torch.equal(paged(network, text, EndlessWindow(4, TOKENS - 4), 9), expected)


@pytest.mark.parametrize(
    ("variant", "window", "message"),
    [
        ("llama", (4, 61), "at most the context, 64, got 65"),
        ("gpt2", (4, 10), "needs RoPE"),
        ("phi3-long", (4, 10), "needs RoPE"),
    ],
)
def test_networks_that_do_not_fit(variant: str, window: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EndlessWindow(*window).check(ours(variant))


@pytest.mark.parametrize("window", [(-1, 5), (1, 0), (True, 5), (1, 2.0)])
def test_numbers_that_make_no_sense(window: tuple) -> None:
    with pytest.raises(ValueError, match="tokens must be an integer"):
        EndlessWindow(*window)


def test_a_prefix_decoder_is_refused() -> None:
    network = Transformer(preset("tiny", vocab_size=97))
    object.__setattr__(network.config, "prefix_decoder", True)
    with pytest.raises(ValueError, match="prefix decoder"):
        EndlessWindow(1, 5).check(network)
