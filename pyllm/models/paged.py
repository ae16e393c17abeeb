"""A decoder's forward pass over pages: new tokens of several sequences, behind one another, no padding.

    tokens    a a a a b c c        cu_seqlens_q  0 4 5 7
    pages     block_table[a] = 3 7 ., block_table[b] = 1 . ., ...; lengths count what is stored, the new tokens included

The layers are those of every other pass: they are handed a cache that writes to pages and attends to them. A token's
bits are those of the contiguous `KVCache`, whatever else is in the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyllm.models.endless import EndlessWindow, TurnedBack
from pyllm.models.kv_cache import CacheShape
from pyllm.models.transformer import Transformer
from pyllm.models.whole_step import whole_step
from pyllm.ops import PagedKVCache, paged_attention, write_kv


def paged_hidden_states(
    network: Transformer,
    input_ids: Tensor,
    position_ids: Tensor,
    caches: Sequence[PagedKVCache],
    block_table: Tensor | Sequence[Tensor],
    lengths: Tensor,
    cu_seqlens_q: Tensor,
    *,
    prefix_lengths: Tensor | None = None,
    endless: EndlessWindow | None = None,
) -> Tensor:
    """Stores the tokens' keys and values and returns what the head reads, (tokens, hidden_size).

    Args:
        input_ids: (tokens,) integers, the new tokens of all sequences, each sequence's side by side.
        position_ids: (tokens,) int64: each token's place in its sequence, its last ones `lengths` reach.
        caches: one per layer; changed in place.
        block_table: int32 or int64, (sequences, max_pages), see `PagedKVCache`; or one for each layer, where layers do
            not keep the same pages. Behind a layer's window entries may be any page.
        lengths: integers (sequences,), tokens of each sequence, the new ones included.
        cu_seqlens_q: int32 (sequences + 1,), borders of the sequences in input_ids.
        prefix_lengths: (sequences,) integers, for a prefix decoder: all of a prefix comes in one call.
        endless: tokens see the first and the newest tokens alone; block_table entries between may be any page.

    Raises:
        ValueError, TypeError, IndexError: an argument does not fit the network or the others.
    """
    config, layers = network.config, network.config.num_hidden_layers
    tables = [block_table] * layers if isinstance(block_table, Tensor) else list(block_table)
    if len(caches) != layers or len(tables) != layers:
        raise ValueError(
            f"caches and block_table must have one entry for each of {layers} layers, "
            f"got {len(caches)} and {len(tables)}"
        )
    if input_ids.dim() != 1 or position_ids.shape != input_ids.shape:
        raise ValueError(
            "input_ids and position_ids must have shape (tokens,), "
            f"got {tuple(input_ids.shape)} and {tuple(position_ids.shape)}"
        )
    max_position = int(position_ids.max()) + 1 if len(position_ids) else 0
    turned = hidden = None
    if endless is not None:
        turned = TurnedBack.of(endless, network, position_ids)
    else:
        hidden = whole_step(
            network.model,
            config,
            input_ids,
            position_ids,
            max_position,
            caches,
            tables,
            lengths,
            cu_seqlens_q,
            prefix_lengths,
        )
    if hidden is None:
        pages = PagedStep(tuple(caches), tuple(tables), position_ids, lengths, cu_seqlens_q, turned)
        hidden = network.model(
            input_ids[None], position_ids[None], max_position, None, prefix_lengths, pages, "none"
        )[0]
    return hidden if config.logit_scale == 1.0 else hidden * config.logit_scale


@dataclass(frozen=True)
class PagedStep:
    """The pages of one step, in the place of a `KVCache`; fields as in `paged_hidden_states`."""

    caches: tuple[PagedKVCache, ...]
    tables: tuple[Tensor, ...]
    position_ids: Tensor
    lengths: Tensor
    cu_seqlens_q: Tensor
    turned: TurnedBack | None = None

    def layer(self, index: int) -> PagedLayer:
        return PagedLayer(self, index)


@dataclass(frozen=True)
class PagedLayer:
    """One layer's view of a `PagedStep`, as `pyllm.nn.Attention` takes it."""

    step: PagedStep
    index: int

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, attn_mask: None = None, **options: Any) -> Tensor:
        """q, k, v: (1, heads, tokens, head_dim). There is no `attn_mask` over pages."""
        step, cache, table = self.step, self.step.caches[self.index], self.step.tables[self.index]
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
        write_kv(k, v, cache, step.position_ids, table, cu_seqlens_q=step.cu_seqlens_q)
        if step.turned is not None and options["window"] is None:
            out = step.turned.attend(q, cache, table, step.lengths, step.cu_seqlens_q, **options)
            return out.transpose(0, 1)[None]
        y = paged_attention(q, cache, table, step.lengths, cu_seqlens_q=step.cu_seqlens_q, **options)
        assert isinstance(y, Tensor)
        return y.transpose(0, 1)[None]


def new_paged_caches(
    config: CacheShape,
    pages: int | Sequence[int],
    *,
    page_size: int = 64,
    dtype: torch.dtype = torch.float32,
    quantization: str | None = None,
    device: torch.device | str = "cpu",
) -> list[PagedKVCache]:
    """A cache for each layer, of `pages` pages or of so many for each. The system lends memory as pages are written to.

    `dtype` is the network's own, `quantization` None, "int8" or "int4", see `PagedKVCache`. Contents are arbitrary:
    what was not written is never read.
    """
    layers, shape = config.num_hidden_layers, (config.num_key_value_heads, config.head_dim)
    counts = [pages] * layers if isinstance(pages, int) else pages
    return [
        PagedKVCache.empty(
            count, *shape, page_size=page_size, dtype=dtype, quantization=quantization, device=device
        )
        for count in counts
    ]
