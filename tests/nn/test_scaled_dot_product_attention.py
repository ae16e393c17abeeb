"""`pyllm.nn.scaled_dot_product_attention` against torch's own."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention as reference

from pyllm.nn import scaled_dot_product_attention


@given(
    lead=st.sampled_from([(), (3,), (2, 4), (2, 1, 4)]),
    q_len=st.integers(1, 9),
    kv_len=st.integers(1, 9),
    masking=st.sampled_from(["none", "causal", "boolean", "additive"]),
    scale=st.sampled_from([None, 0.3]),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_equals_torch(
    lead: tuple[int, ...], q_len: int, kv_len: int, masking: str, scale: float | None, seed: int
) -> None:
    torch.manual_seed(seed)
    q = torch.randn(*lead, q_len, 8, requires_grad=True)
    k, v = torch.randn(*lead, kv_len, 8), torch.randn(*lead, kv_len, 8)
    mask = None
    if masking == "boolean":
        mask = torch.rand(*lead[-1:], q_len, kv_len) < 0.7
        mask[..., 0] = True
    elif masking == "additive":
        mask = torch.randn(q_len, kv_len)
    options = {"attn_mask": mask, "is_causal": masking == "causal", "scale": scale}
    expected, actual = reference(q, k, v, **options), scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    (grad,) = torch.autograd.grad(expected.square().sum(), q)
    (ours,) = torch.autograd.grad(actual.square().sum(), q)
    torch.testing.assert_close(ours, grad, atol=1e-5, rtol=1e-4)


def test_signature_is_torchs() -> None:
    names = list(inspect.signature(scaled_dot_product_attention).parameters)
    documented = reference.__doc__
    assert documented is not None
    listed = documented[documented.index("(") + 1 : documented.index(")")].split(",")
    assert names == [part.split("=")[0].strip() for part in listed]


def test_grouped_heads() -> None:
    q, k, v = torch.randn(2, 6, 5, 4), torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4)
    actual = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(actual, reference(q, k, v, is_causal=True, enable_gqa=True))
    with pytest.raises(ValueError, match="enable_gqa"):
        scaled_dot_product_attention(q, k, v)


def test_wrong_arguments() -> None:
    q = torch.randn(1, 2, 3, 4)
    with pytest.raises(ValueError, match="attn_mask must be None"):
        scaled_dot_product_attention(q, q, q, torch.ones(3, 3, dtype=torch.bool), is_causal=True)
    with pytest.raises(ValueError, match="one rank"):
        scaled_dot_product_attention(q, q[0], q)
    with pytest.raises(ValueError):
        scaled_dot_product_attention(q, q, q, torch.ones(3, 5, dtype=torch.bool))
