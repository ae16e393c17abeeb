"""Modules are drop-ins for torch's and transformers': same parameters, same names, same results."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from pyllm import nn


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias: bool) -> None:
    theirs = torch.nn.Linear(19, 7, bias)
    ours = nn.Linear(19, 7, bias)
    ours.load_state_dict(theirs.state_dict())
    assert isinstance(ours, torch.nn.Linear)
    x = torch.randn(2, 3, 19)
    torch.testing.assert_close(ours(x), theirs(x))


def test_rms_norm() -> None:
    theirs, llama, ours = torch.nn.RMSNorm(33), LlamaRMSNorm(33, eps=1e-5), nn.RMSNorm(33)
    torch.nn.init.normal_(theirs.weight)
    ours.load_state_dict(theirs.state_dict())
    x, residual = torch.randn(5, 33), torch.randn(5, 33)
    torch.testing.assert_close(ours(x), theirs(x))
    y, total = ours(x, residual)
    torch.testing.assert_close(total, x + residual)
    torch.testing.assert_close(y, theirs(x + residual))
    with_eps = nn.RMSNorm((33,), eps=1e-5)
    with_eps.load_state_dict(llama.state_dict())
    torch.testing.assert_close(with_eps(x), llama(x))
    with pytest.raises(ValueError, match="normalized_shape must be one dimension"):
        nn.RMSNorm((3, 33))
    with pytest.raises(ValueError, match="elementwise_affine=False"):
        nn.RMSNorm(33, elementwise_affine=False)


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(bias: bool) -> None:
    theirs, ours = torch.nn.LayerNorm(33, bias=bias), nn.LayerNorm(33, bias=bias)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    x, residual = torch.randn(5, 33), torch.randn(5, 33)
    torch.testing.assert_close(ours(x), theirs(x))
    y, total = ours(x, residual)
    torch.testing.assert_close(total, x + residual)
    torch.testing.assert_close(y, theirs(x + residual))
    with pytest.raises(ValueError, match="normalized_shape must be one dimension"):
        nn.LayerNorm((3, 33))
    with pytest.raises(ValueError, match="elementwise_affine=False"):
        nn.LayerNorm(33, elementwise_affine=False)


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_mlp(activation: str) -> None:
    mlp, x = nn.MLP(12, 17, activation=activation), torch.randn(2, 5, 12)
    function = {
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda h: torch.nn.functional.gelu(h, approximate="tanh"),
    }[activation]
    hidden = function(torch.nn.functional.linear(x, mlp.up_proj.weight, mlp.up_proj.bias))
    expected = torch.nn.functional.linear(hidden, mlp.down_proj.weight, mlp.down_proj.bias)
    torch.testing.assert_close(mlp(x), expected)
    with pytest.raises(ValueError, match="activation must be one of"):
        nn.MLP(12, 17, activation="relu")


@pytest.mark.parametrize(
    ("activation", "name"), [("silu", "silu"), ("gelu", "gelu"), ("gelu_tanh", "gelu_pytorch_tanh")]
)
@pytest.mark.parametrize("bias", [True, False])
def test_gated_mlp(activation: str, name: str, bias: bool) -> None:
    theirs = LlamaMLP(
        LlamaConfig(
            hidden_size=12, intermediate_size=17, num_attention_heads=2, hidden_act=name, mlp_bias=bias
        )
    )
    ours = nn.GatedMLP(12, 17, bias=bias, activation=activation)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x), theirs(x))


def test_rotary_tables_do_not_depend_on_their_length() -> None:
    inverse = nn.rotary.inverse_frequencies(16, 500.0)
    short, long = nn.RotaryEmbedding(inverse), nn.RotaryEmbedding(inverse)
    cos, _ = short(1)
    more, sin = long(5000)
    assert more.shape == sin.shape
    assert more.shape[0] >= 5000
    assert more.shape[1] == 8
    assert torch.equal(more[: cos.shape[0]], cos)
    exact = torch.outer(torch.arange(5000, dtype=torch.float64), inverse.double())
    assert (sin[:5000] - exact.sin()).abs().max() < 1e-3
    assert torch.equal(short(5000)[0], more)


def test_rotary_tables_follow_no_cast() -> None:
    rotary = nn.RotaryEmbedding(nn.rotary.inverse_frequencies(8)).to(torch.bfloat16)
    assert rotary(3)[0].dtype == torch.float32
    assert not rotary.state_dict()


def test_attention_excludes_documents_and_cache() -> None:
    attention = nn.Attention(8, 2, 1, 4)
    cos, sin = nn.RotaryEmbedding(nn.rotary.inverse_frequencies(4))(3)

    class Cache:
        def attend(self, q: torch.Tensor, *_: object, **options: object) -> torch.Tensor:
            return q

    with pytest.raises(ValueError, match="cu_seqlens and cache exclude each other"):
        attention(torch.randn(1, 3, 8), cos, sin, cu_seqlens=torch.tensor([0, 3]), cache=Cache())
    assert attention(torch.randn(1, 3, 8), cos, sin, cache=Cache()).shape == (1, 3, 8)
