"""Grouped-query self-attention with rotary positions."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from pyllm import ops
from pyllm.nn.functional import attend
from pyllm.nn.linear import Linear
from pyllm.nn.rms_norm import RMSNorm


class AttentionCache(Protocol):
    """Keys and values of one layer that were seen before; how they are stored is the cache's affair."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        """Store k and v, then attend causally from q to all stored; shapes and options as in `pyllm.ops.attention`."""


class Attention(torch.nn.Module):
    """Self-attention, causal unless said otherwise: projections, optional norm per head and RoPE, output projection.

    x (batch, tokens, hidden_size) -> the same shape. Parameters as in transformers: q_proj (heads *
    head_dim, hidden), k_proj and v_proj (kv_heads * head_dim, hidden), o_proj (hidden, heads * head_dim),
    and with `qk_norm_eps` q_norm and k_norm (head_dim,). Query heads share kv heads in consecutive groups
    (arXiv 2305.13245).

    Args:
        bias: q, k and v projections have one; `output_bias`: the output projection has one.
        qk_norm_eps: RMSNorm with this eps over each head of q and k before RoPE; None leaves it out.
        qk_norm_offset: added to the weights of those norms.
        is_causal: queries see no later key.
        window: each query sees itself and the window - 1 keys before it; None means all.
        scale: of the scores; None: 1 / sqrt(head_dim).
        softcap: scores become softcap * tanh(score / softcap).
        rope_interleaved: how RoPE pairs components, see `pyllm.ops.rope`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        bias: bool = False,
        output_bias: bool = False,
        qk_norm_eps: float | None = None,
        qk_norm_offset: float = 0.0,
        is_causal: bool = True,
        window: int | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        rope_interleaved: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.head_dim, self.is_causal = head_dim, is_causal
        self.window, self.scale, self.softcap = window, scale, softcap
        self.rope_interleaved = rope_interleaved
        self.q_proj = Linear(hidden_size, num_heads * head_dim, bias, device, dtype)
        self.k_proj = Linear(hidden_size, num_kv_heads * head_dim, bias, device, dtype)
        self.v_proj = Linear(hidden_size, num_kv_heads * head_dim, bias, device, dtype)
        self.o_proj = Linear(num_heads * head_dim, hidden_size, output_bias, device, dtype)
        self.q_norm = self.k_norm = None
        if qk_norm_eps is not None:
            self.q_norm, self.k_norm = (
                RMSNorm(head_dim, qk_norm_eps, device=device, dtype=dtype, weight_offset=qk_norm_offset)
                for _ in range(2)
            )

    def forward(
        self,
        x: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        position_ids: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        prefix_lengths: Tensor | None = None,
        kv_lengths: Tensor | None = None,
        position_bias: Tensor | None = None,
        cache: AttentionCache | None = None,
    ) -> Tensor:
        """Attend within each row, within each document, or to a cache.

        Args:
            cos, sin: (positions, rotary_dim / 2) tables of `RotaryEmbedding`; None: q and k are not rotated.
            position_ids: (batch, tokens) int64, below the tables' length; None counts from 0.
            cu_seqlens: (documents + 1,) int32 borders of documents in the flattened batch * tokens; attention
                never crosses one.
            prefix_lengths: (batch,) integers, or (documents,) with `cu_seqlens`; the first so many tokens are
                visible to all.
            kv_lengths: (batch,) integers; tokens at and past it are padding that nobody sees. Causal attention keeps
                padding on the right out of sight anyway.
            position_bias: added to the scores, broadcast to (batch, heads, tokens, keys).
            cache: what was seen before; not together with `cu_seqlens`.
        """
        if cache is not None and cu_seqlens is not None:
            raise ValueError("cu_seqlens and cache exclude each other: a cache holds one text per row")
        q, k, v = self._heads(self.q_proj(x)), self._heads(self.k_proj(x)), self._heads(self.v_proj(x))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if cu_seqlens is not None:
            q, k, v = (t.flatten(0, 1)[None] for t in (q, k, v))
            position_ids = packed_positions(x, position_ids)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if cos is not None and sin is not None:
            q, k = ops.rope(q, k, cos, sin, position_ids=position_ids, interleaved=self.rope_interleaved)
        options: dict[str, Any] = {"window": self.window, "scale": self.scale, "softcap": self.softcap}
        options |= {"prefix_length": prefix_lengths, "attn_mask": position_bias}
        if cache is not None:
            y = cache.attend(q, k, v, **options)
        elif cu_seqlens is not None:
            q, k, v = (t[0].transpose(0, 1) for t in (q, k, v))
            borders = {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens}
            y = attend(q, k, v, is_causal=self.is_causal, **borders, **options)[None].transpose(1, 2)
        else:
            y = attend(q, k, v, is_causal=self.is_causal, kv_lengths=kv_lengths, **options)
        return self.o_proj(y.transpose(1, 2).reshape(*x.shape[:-1], -1))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))


def packed_positions(x: Tensor, position_ids: Tensor | None) -> Tensor:
    """Positions (1, batch * tokens) of x (batch, tokens, ...) with its rows behind one another."""
    if position_ids is None:
        position_ids = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
    return position_ids.reshape(1, -1)
