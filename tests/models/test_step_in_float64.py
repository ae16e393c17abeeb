"""Loss and gradients of whole networks against a forward pass in plain PyTorch, judged in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pyllm import ops
from pyllm.models import ModelConfig, Transformer, gpt2_config


def plain_loss(state: dict[str, Tensor], config: ModelConfig, ids: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the network that `state` and `config` describe, in the state's dtype."""
    x = F.embedding(ids, state["model.embed_tokens.weight"])
    if config.position_embedding == "learned":
        x = x + state["model.embed_positions.weight"][: ids.shape[1]]
    for index in range(config.num_hidden_layers):
        layer = {
            name.removeprefix(f"model.layers.{index}."): tensor
            for name, tensor in state.items()
            if name.startswith(f"model.layers.{index}.")
        }
        x = x + _attention(layer, config, _norm(layer, "input_layernorm", config, x))
        x = x + _mlp(layer, config, _norm(layer, "post_attention_layernorm", config, x))
    head = state.get("lm_head.weight", state["model.embed_tokens.weight"])
    logits = F.linear(_norm(state, "model.norm", config, x), head)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, 1), targets.flatten())


def _linear(layer: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, layer[f"{name}.weight"], layer.get(f"{name}.bias"))


def _norm(layer: dict[str, Tensor], name: str, config: ModelConfig, x: Tensor) -> Tensor:
    weight, size = layer[f"{name}.weight"], x.shape[-1:]
    if config.norm == "rms_norm":
        return F.rms_norm(x, size, weight, config.rms_norm_eps)
    return F.layer_norm(x, size, weight, layer.get(f"{name}.bias"), config.rms_norm_eps)


def _mlp(layer: dict[str, Tensor], config: ModelConfig, x: Tensor) -> Tensor:
    up = _linear(layer, "mlp.up_proj", x)
    if config.gated_mlp:
        return _linear(layer, "mlp.down_proj", F.silu(_linear(layer, "mlp.gate_proj", x)) * up)
    approximate = "tanh" if config.hidden_act == "gelu_tanh" else "none"
    return _linear(layer, "mlp.down_proj", F.gelu(up, approximate=approximate))


def _attention(layer: dict[str, Tensor], config: ModelConfig, x: Tensor) -> Tensor:
    q, k, v = (
        _linear(layer, f"self_attn.{name}_proj", x).unflatten(-1, (-1, config.head_dim)).transpose(1, 2)
        for name in "qkv"
    )
    if config.position_embedding == "rope":
        powers = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        angles = torch.outer(torch.arange(x.shape[1], dtype=torch.float32), 1.0 / config.rope_theta**powers)
        q, k = (_rotate(t, angles.cos().to(x.dtype), angles.sin().to(x.dtype)) for t in (q, k))
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return _linear(layer, "self_attn.o_proj", y.transpose(1, 2).flatten(2))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def plain_gradients(
    network: Transformer, dtype: torch.dtype, ids: Tensor, targets: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    state = {name: p.detach().to(dtype).requires_grad_() for name, p in network.named_parameters()}
    loss = plain_loss(state, network.config, ids, targets)
    loss.backward()
    return loss.detach(), {name: tensor.grad for name, tensor in state.items() if tensor.grad is not None}


def check(config: ModelConfig, rows: int, tokens: int, dtype: torch.dtype) -> None:
    torch.manual_seed(tokens)
    network = Transformer(config, dtype=torch.float32).to(dtype)
    ids = torch.randint(config.vocab_size, (rows, tokens + 1))
    inputs, targets = ids[:, :-1], ids[:, 1:]
    loss = ops.linear_cross_entropy(network.hidden_states(inputs), network.lm_head_weight, targets)
    loss.backward()

    exact_loss, exact = plain_gradients(network, torch.float64, inputs, targets)
    their_loss, theirs = plain_gradients(network, dtype, inputs, targets)
    ulp, largest = torch.finfo(dtype).eps, max(gradient.abs().max() for gradient in exact.values())
    allowed_loss = 2 * abs(their_loss.item() - exact_loss.item()) + 4 * 2**-23 * exact_loss.item()
    assert abs(loss.item() - exact_loss.item()) <= allowed_loss
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        error = (parameter.grad.double() - exact[name]).square().mean().sqrt()
        allowed = (theirs[name].double() - exact[name]).square().mean().sqrt()
        assert error <= 3 * allowed + ulp * largest, name


CONFIGS = {
    "llama": ModelConfig(
        vocab_size=509,
        hidden_size=72,
        intermediate_size=200,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.1,
    ),
    "gpt2": gpt2_config(307, 64, 3, 4),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients(name: str, dtype: torch.dtype) -> None:
    check(CONFIGS[name], 3, 65, dtype)


@given(
    heads=st.integers(1, 4),
    groups=st.integers(1, 3),
    head_dim=st.sampled_from([2, 6, 16, 34]),
    width=st.integers(1, 5).map(lambda n: 17 * n),
    intermediate=st.integers(1, 150),
    vocabulary=st.integers(2, 700),
    rows=st.integers(1, 5),
    tokens=st.integers(1, 80),
    tied=st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_any_shape(
    heads: int,
    groups: int,
    head_dim: int,
    width: int,
    intermediate: int,
    vocabulary: int,
    rows: int,
    tokens: int,
    tied: bool,
) -> None:
    config = ModelConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=heads * groups,
        num_key_value_heads=heads,
        head_dim=head_dim,
        tie_word_embeddings=tied,
        initializer_range=1 / math.sqrt(width),
    )
    check(config, rows, tokens, torch.float32)
