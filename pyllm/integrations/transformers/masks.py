"""What a mask of transformers says in few words, so that attention need not read it key by key.

transformers makes one boolean mask (batch, 1, queries, keys) per forward and kind of layer, and every layer reads it.
Most are causal with padding, or causal within the documents of a packed row. Ours is made by the same function; then it
is compared with the mask that the short form stands for, and only where the two are equal the layers get that:

    padding     keys (batch, 1, 1, keys), and causal order
    documents   cu_seqlens of the flattened rows, and causal order
    no queries  keys alone: an encoder's padding
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ShortMask:
    """The same mask in the arguments of `pyllm.ops.attention`."""

    keys: Tensor | None = None
    cu_seqlens: Tensor | None = None
    is_causal: bool = True
    window: int | None = None


def make_mask(**arguments: Any) -> Tensor | None:
    """transformers' boolean mask, or None where none is needed, with its `ShortMask` as an attribute if it has one.

    Arguments and result as those of an entry of `AttentionMaskInterface`.
    """
    from transformers.masking_utils import sdpa_mask

    mask = sdpa_mask(**arguments)
    if mask is None or mask.device.type != "cpu" or torch.compiler.is_compiling():
        return mask
    if "q_length" in arguments:  # else a release of transformers that passes positions; the mask alone serves
        vars(mask)["pyllm_short"] = _shorten(mask, **arguments)
    return mask


def short_mask(mask: Tensor | None) -> ShortMask | None:
    """The short form that `make_mask` left on this mask; a mask made or changed elsewhere has none."""
    return None if mask is None else getattr(mask, "pyllm_short", None)


def _shorten(
    mask: Tensor,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int | Tensor = 0,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    **_: Any,
) -> ShortMask | None:
    if q_length == 1:
        return None
    if bool(mask[:, :, 0, 1:].any()) and bool((mask == mask[:, :, :1]).all()):
        return ShortMask(mask[:, :, :1], is_causal=False)
    # Our causal order is aligned to the last key. A static cache, whose offsets are tensors, has room behind it.
    aligned = isinstance(q_offset, int) and q_offset + q_length == kv_offset + kv_length
    if not aligned:
        return None
    keys = torch.arange(kv_length)
    queries = keys[kv_length - q_length :, None]
    order = keys <= queries
    if local_size is not None:
        order &= queries - local_size < keys
    if attention_mask is not None:
        seen = attention_mask[:, kv_offset : kv_offset + kv_length]
        if seen.shape[-1] != kv_length:
            return None
        seen = seen.bool()[:, None, None, :]
        same = bool((mask == (order & seen)).all())
        return ShortMask(seen, window=local_size) if same else None
    return _documents(mask, order, local_size) if q_length == kv_length else None


def _documents(mask: Tensor, order: Tensor, window: int | None) -> ShortMask | None:
    """A document starts where a token does not see the one before it."""
    starts = torch.ones(mask.shape[0], mask.shape[-1], dtype=torch.bool)
    starts[:, 1:] = ~mask[:, 0].diagonal(offset=-1, dim1=1, dim2=2)
    document = starts.cumsum(-1)
    same = order & (document[:, None, :, None] == document[:, None, None, :])
    if not bool((mask == same).all()):
        return None
    borders = torch.cat((starts.flatten().nonzero()[:, 0], torch.tensor([starts.numel()])))
    return ShortMask(cu_seqlens=borders.to(torch.int32), window=window)
