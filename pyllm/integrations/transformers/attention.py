"""`attn_implementation="pyllm"`: an entry of transformers' AttentionInterface over `pyllm.ops.attention`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyllm.integrations.transformers.masks import make_mask, short_mask
from pyllm.nn.functional import attend

IMPLEMENTATION = "pyllm"


def register_attention() -> None:
    """Makes `attn_implementation="pyllm"` known to transformers; harmless when repeated."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, attention_forward)
    AttentionMaskInterface.register(IMPLEMENTATION, make_mask)


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' layers call it.

    Args:
        query: (batch, heads, q_len, head_dim); key, value: (batch, kv_heads, kv_len, head_dim).
        attention_mask: (batch, 1 or heads, q_len, kv_len), boolean or additive; None: causal if the module is.
        softcap: of the scores (Gemma 2).
        s_aux: (heads,) sink logits (gpt-oss).
        position_bias: (1, heads, q_len, kv_len), added to the scores (T5).
        cu_seq_lens_q, cu_seq_lens_k: (documents + 1,) borders of the documents of one packed row
            (`DataCollatorWithFlattening(return_flash_attn_kwargs=True)`); they take the place of the mask.

    Returns:
        (batch, q_len, heads, head_dim), and no attention weights.

    Raises:
        ValueError: attention weights are asked for.
    """
    if kwargs.get("output_attentions"):
        raise ValueError(
            "attn_implementation='pyllm' never holds the attention weights, but output_attentions=True asks for them; "
            "call model.set_attn_implementation('eager') first"
        )
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    options: dict[str, Any] = {
        "scale": scaling,
        "dropout_p": dropout,
        "softcap": softcap,
        "sink_logits": s_aux,
    }
    short = short_mask(attention_mask)
    if cu_seq_lens_q is not None and cu_seq_lens_k is not None and query.shape[0] == 1:
        window = kwargs.get("sliding_window") if causal else None
        return _packed(query, key, value, cu_seq_lens_q, cu_seq_lens_k, causal, window, options), None
    if short is not None and short.cu_seqlens is not None and position_bias is None:
        borders = short.cu_seqlens
        return _packed(query, key, value, borders, borders, True, short.window, options), None
    if attention_mask is None:
        attention_mask, causal, key, value = _without_mask(query, key, value, causal)
    elif short is not None and short.cu_seqlens is None:
        attention_mask, causal = short.keys, short.is_causal
        options["window"] = short.window
    else:
        causal = False
    if position_bias is not None:
        attention_mask = _add_bias(position_bias[..., : key.shape[2]], attention_mask)
    y = attend(query, key, value, attn_mask=attention_mask, is_causal=causal, **options)
    return y.transpose(1, 2), None


def _without_mask(
    query: Tensor, key: Tensor, value: Tensor, causal: bool
) -> tuple[None, bool, Tensor, Tensor]:
    """No mask: the newest query sees all keys; several queries and more keys mean that a static cache is being filled,
    whose keys behind the last query are empty."""
    q_len = query.shape[2]
    if not causal or q_len == 1:
        return None, False, key, value
    return None, True, key[:, :, :q_len], value[:, :, :q_len]


def _add_bias(bias: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, float("-inf"))
    return bias + mask


def _packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    causal: bool,
    window: int | None,
    options: dict[str, Any],
) -> Tensor:
    """All rows end to end as one list of tokens: (batch, heads, len, dim) -> (batch, len, heads, dim)."""
    q, k, v = (t.transpose(1, 2).flatten(0, 1) for t in (query, key, value))
    borders = {"cu_seqlens_q": cu_seqlens_q, "cu_seqlens_k": cu_seqlens_k}
    y = attend(q, k, v, is_causal=causal, window=window, **borders, **options)
    return y.unflatten(0, (query.shape[0], query.shape[2]))
