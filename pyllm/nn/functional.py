"""Functions with torch's own signatures over pyllm's ops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyllm import ops


def attend(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """`pyllm.ops.attention` for callers that want the output alone, whatever else it can return."""
    result = ops.attention(q, k, v, **options)
    return result if isinstance(result, Tensor) else result[0]


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Drop-in for `torch.nn.functional.scaled_dot_product_attention`.

    query (..., heads, q_len, head_dim), key and value (..., kv_heads, kv_len, head_dim) -> query's shape.
    As in torch, `is_causal` is aligned to the top left (query i sees keys j <= i), unlike
    `pyllm.ops.attention`. A row that sees no key gives zeros.

    Raises:
        ValueError: `attn_mask` together with `is_causal`, ranks that differ, or fewer kv heads without
            `enable_gqa`.
    """
    _check(query, key, value, attn_mask, is_causal, enable_gqa)
    q_len, kv_len = query.shape[-2], key.shape[-2]
    if is_causal and q_len < kv_len:
        # No query reaches a key beyond the last query: without them both alignments agree.
        key, value = key[..., :q_len, :], value[..., :q_len, :]
    elif is_causal and q_len > kv_len:
        attn_mask = torch.ones(q_len, kv_len, dtype=torch.bool, device=query.device).tril()
        is_causal = False
    lead = query.shape[:-3]
    if attn_mask is not None and attn_mask.dim() > 2:
        heads = attn_mask.shape[-3]
        attn_mask = _four_dimensional(attn_mask.expand(*lead, heads, q_len, key.shape[-2]))
    y = attend(
        _four_dimensional(query),
        _four_dimensional(key),
        _four_dimensional(value),
        attn_mask=attn_mask,
        is_causal=is_causal,
        scale=scale,
        dropout_p=dropout_p,
    )
    return y.reshape(*query.shape[:-1], value.shape[-1])


def _four_dimensional(x: Tensor) -> Tensor:
    """(..., heads, length, width) -> (batch, heads, length, width)."""
    while x.dim() < 4:
        x = x.unsqueeze(0)
    return x.flatten(0, -4)


def _check(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool, enable_gqa: bool
) -> None:
    if is_causal and attn_mask is not None:
        raise ValueError("attn_mask must be None where is_causal is set")
    if not query.dim() == key.dim() == value.dim() >= 2:
        shapes = [tuple(t.shape) for t in (query, key, value)]
        raise ValueError(f"query, key and value must have one rank, 2 or more, got shapes {shapes}")
    if query.dim() > 2 and query.shape[-3] != key.shape[-3] and not enable_gqa:
        raise ValueError(
            f"query has {query.shape[-3]} heads and key {key.shape[-3]}: pass enable_gqa=True to share them"
        )
