"""Attention in plain PyTorch: the definition that the compiled kernels are tested against, and the fallback."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    sink_logits: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    prefix_length: Tensor | None = None,
    kv_lengths: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    dropout_seed: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    sink_tokens: int = 0,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    first_sequence: int = 0,
) -> tuple[Tensor, Tensor]:
    """`pyllm.ops.attention` with prefix_length and the seed of the dropout as tensors; returns (out, lse).

    Matrix products run in q's dtype, everything between them in float32 (float64 for float64). `first_sequence` is the
    number of batch row 0 in the dropout's stream.
    """
    if cu_seqlens_q is not None and cu_seqlens_k is not None:
        options = {
            "sink_logits": sink_logits,
            "alibi_slopes": alibi_slopes,
            "dropout_seed": dropout_seed,
            "is_causal": is_causal,
            "scale": scale,
            "window": window,
            "sink_tokens": sink_tokens,
            "softcap": softcap,
            "dropout_p": dropout_p,
        }
        return _packed(q, k, v, cu_seqlens_q, cu_seqlens_k, prefix_length, options)
    batch, heads, q_len, head_dim = q.shape
    kv_len = k.shape[2]
    position = _positions(q_len, kv_len, kv_lengths, q.device)
    allowed = visible_keys(
        position, kv_len, is_causal, window, prefix_length, sink_tokens, kv_lengths
    ).expand(batch, 1, q_len, kv_len)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        allowed = allowed & attn_mask
    # What no query may see might hold anything, NaN included.
    hidden = ~allowed.any(-2)[..., None]
    group = heads // k.shape[1] if k.shape[1] else 1
    keys = k.repeat_interleave(group, 1).masked_fill(hidden, 0)
    values = v.repeat_interleave(group, 1).masked_fill(hidden, 0)

    scores = (q @ keys.transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32))
    scores = scores * (scale if scale is not None else 1 / math.sqrt(head_dim))
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if alibi_slopes is not None:
        distance = (position[..., None] - torch.arange(kv_len, device=q.device)).abs().to(scores.dtype)
        scores = scores - alibi_slopes.to(scores.dtype)[:, None, None] * distance
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        scores = scores + attn_mask.to(scores.dtype)
    scores = scores.masked_fill(~allowed, -math.inf)

    weights, lse = _softmax(scores, sink_logits)
    if dropout_p > 0 and dropout_seed is not None:
        keep = (
            dropout_uniform(dropout_seed.to(q.device), batch, heads, q_len, kv_len, first_sequence)
            >= dropout_p
        )
        weights = weights * keep / (1 - dropout_p) if dropout_p < 1 else torch.zeros_like(weights)
    return weights.to(q.dtype) @ values, lse


def visible_keys(
    position: Tensor,
    kv_len: int,
    is_causal: bool,
    window: int | None,
    prefix_length: Tensor | None,
    sink_tokens: int,
    kv_lengths: Tensor | None,
) -> Tensor:
    """True where the query at `position` (batch or 1, 1, q_len) may attend, (batch or 1, 1, q_len, kv_len)."""
    query = position[..., None]
    key = torch.arange(kv_len, device=position.device)
    allowed = torch.ones_like(query <= key)
    if is_causal or window is not None:
        allowed = key <= query
    if window is not None:
        allowed = allowed & ((key > query - window) | (key < sink_tokens))
    if prefix_length is not None:
        allowed = allowed | (key < prefix_length.to(key.device)[:, None, None, None])
    if kv_lengths is not None:
        allowed = allowed & (key < kv_lengths.to(key.device)[:, None, None, None])
    return allowed


def dropout_uniform(
    seed: Tensor, batch: int, heads: int, q_len: int, kv_len: int, first_sequence: int = 0
) -> Tensor:
    """Uniform numbers in [0, 1), (batch, heads, q_len, kv_len), as the kernels draw them.

    Philox4x32-10 (Salmon et al., 2011) with stream = batch * heads + head and counter = (query, key // 4); the key's
    remainder picks one of the four words.
    """
    device = seed.device
    low = 0xFFFFFFFF
    stream = (first_sequence * heads + torch.arange(batch * heads, device=device)).view(batch, heads, 1, 1)
    query = torch.arange(q_len, device=device)[:, None]
    quad = torch.arange((kv_len + 3) // 4, device=device)
    c = [x.expand(batch, heads, q_len, quad.shape[0]) for x in (quad, query, stream & low, stream >> 32)]
    key_0, key_1 = seed & low, (seed >> 32) & low
    for _ in range(10):
        # 64-bit products wrap as signed numbers; shifting and masking takes their unsigned halves.
        p_0, p_1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [((p_1 >> 32) & low) ^ c[1] ^ key_0, p_1 & low, ((p_0 >> 32) & low) ^ c[3] ^ key_1, p_0 & low]
        key_0, key_1 = (key_0 + 0x9E3779B9) & low, (key_1 + 0xBB67AE85) & low
    words = torch.stack(c, -1).flatten(-2)[..., :kv_len]
    return (words >> 8).to(torch.float32) * 2.0**-24


def _positions(q_len: int, kv_len: int, kv_lengths: Tensor | None, device: torch.device) -> Tensor:
    """Each query's place among the keys, aligned so that the last query stands on the last key."""
    query = torch.arange(q_len, device=device) - q_len
    if kv_lengths is None:
        return (query + kv_len)[None, None]
    return query + kv_lengths.to(device)[:, None, None]


def _softmax(scores: Tensor, sink_logits: Tensor | None) -> tuple[Tensor, Tensor]:
    """(weights, log of the denominator); rows without a key get zero weights and -inf, and pass no gradient."""
    joined = scores
    if sink_logits is not None:
        sink = sink_logits.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)
        joined = torch.cat([scores, sink], -1)
    dead = (joined == -math.inf).all(-1, keepdim=True)
    lse = torch.logsumexp(joined.masked_fill(dead, 0.0), -1, keepdim=True)
    weights = torch.exp(scores - lse.masked_fill(dead, 0.0))
    return weights, lse.masked_fill(dead, -math.inf).squeeze(-1)


def _packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    prefix_length: Tensor | None,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """One padded call per sequence. Returns out (tokens, heads, dim) and lse (heads, tokens)."""
    q_ends, k_ends = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    wide = torch.promote_types(q.dtype, torch.float32)
    outs = [q.new_empty((0, q.shape[1], v.shape[-1]))]
    lses = [q.new_empty((q.shape[1], 0), dtype=wide)]
    for n in range(len(q_ends) - 1):
        rows, keys = slice(q_ends[n], q_ends[n + 1]), slice(k_ends[n], k_ends[n + 1])
        q_n, k_n, v_n = (t.transpose(0, 1)[None] for t in (q[rows], k[keys], v[keys]))
        prefix = None if prefix_length is None else prefix_length[n : n + 1]
        out, lse = attention_reference(q_n, k_n, v_n, prefix_length=prefix, first_sequence=n, **options)
        outs.append(out[0].transpose(0, 1))
        lses.append(lse[0])
    return torch.cat(outs), torch.cat(lses, 1)
