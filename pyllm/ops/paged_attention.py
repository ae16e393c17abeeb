"""Attention over a paged key-value cache: writing new tokens, and attending to what is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyllm.ops import _library, quantized_kv
from pyllm.ops.attention import check_score_options
from pyllm.ops.attention_reference import attention_reference

PAGE_SIZES = (16, 32, 64, 128, 256)
_GROUP = 16  # keys side by side in a page


@dataclass(frozen=True)
class PagedKVCache:
    """Keys and values of many sequences in pages of `page_size` tokens, packed as attention reads them.

    Which page holds which tokens is the caller's affair: a block table (batch, max_pages) names, for each sequence, the
    page of its tokens [0, page_size), of its next page_size ones, and so on. Pages may be shared, and used again
    without being cleared: what lies past a sequence's length is never read. The layout of a page is that of
    csrc/ops/attention/packed_kv.h; `write_kv` writes it, `read` undoes it.

    A quantized cache holds codes: "int8" with one scale for each key and each value, a quarter of float32's memory,
    "int4" with a step and a smallest value for each 32 elements, 5 bits an element (quantized_kv.py). A token is
    quantized by itself as it is written, and read quantized by its own chunk too, so that chunks and neighbours do not
    matter. Queries of any dtype then attend to float32 values `code * scale`.

    Attributes:
        data: (pages, kv_heads, elements of a page), dtype of the queries; pages contiguous. Quantized: uint8, bytes.
        page_size: tokens of a page: 16, 32, 64, 128 or 256.
        head_dim, value_dim: elements of a key and of a value.
        quantization: None, "int8" or "int4".

    Raises:
        ValueError: `page_size`, `quantization` or the shape of `data` does not fit. TypeError: its dtype does not.
    """

    data: Tensor
    page_size: int
    head_dim: int
    value_dim: int
    quantization: str | None = None

    def __post_init__(self) -> None:
        _check_page_size(self.page_size)
        quantized_kv.check_quantization(self.quantization)
        if self.quantization is None:
            _library.check_dtype("PagedKVCache", "data", self.data)
        elif self.data.dtype != torch.uint8:
            raise TypeError(f"PagedKVCache: data of a quantized cache must be uint8, got {self.data.dtype}")
        sizes = (self.page_size, self.head_dim, self.value_dim)
        elements = _page_elements(self.data.dtype, self.quantization, *sizes)
        if self.data.dim() != 3 or self.data.shape[2] != elements:
            raise ValueError(
                f"PagedKVCache: data must be (pages, kv_heads, {elements}), got {tuple(self.data.shape)}"
            )
        if self.data.stride(2) != 1:
            raise ValueError(
                f"PagedKVCache: data's pages must be contiguous, got strides {self.data.stride()}"
            )

    @classmethod
    def zeros(
        cls,
        pages: int,
        kv_heads: int,
        head_dim: int,
        *,
        value_dim: int | None = None,
        page_size: int = 64,
        dtype: torch.dtype = torch.bfloat16,
        quantization: str | None = None,
        device: torch.device | str | None = None,
    ) -> PagedKVCache:
        """A cache of `pages` pages of zeros; value_dim is head_dim if None. With `quantization` dtype says nothing."""
        cache = cls.empty(
            pages,
            kv_heads,
            head_dim,
            value_dim=value_dim,
            page_size=page_size,
            dtype=dtype,
            quantization=quantization,
            device=device,
        )
        cache.data.zero_()
        return cache

    @classmethod
    def empty(
        cls,
        pages: int,
        kv_heads: int,
        head_dim: int,
        *,
        value_dim: int | None = None,
        page_size: int = 64,
        dtype: torch.dtype = torch.bfloat16,
        quantization: str | None = None,
        device: torch.device | str | None = None,
    ) -> PagedKVCache:
        """As `zeros`, with contents that are arbitrary; the system lends the memory as pages are written to."""
        _check_page_size(page_size)
        value_dim = head_dim if value_dim is None else value_dim
        quantized_kv.check_quantization(quantization)
        dtype = dtype if quantization is None else torch.uint8
        elements = _page_elements(dtype, quantization, page_size, head_dim, value_dim)
        data = torch.empty(pages, kv_heads, elements, dtype=dtype, device=device)
        return cls(data, page_size, head_dim, value_dim, quantization)

    def read(self, pages: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Keys (kv_heads, length, head_dim) and values (kv_heads, length, value_dim) of one sequence.

        float32, if the cache is quantized. `pages` is its row of the block table. Raises ValueError if the row has no
        room for `length` tokens.
        """
        if not 0 <= length <= pages.shape[0] * self.page_size:
            capacity = pages.shape[0] * self.page_size
            raise ValueError(f"PagedKVCache.read: length must lie in [0, {capacity}], got {length}")
        position = torch.arange(length, device=self.data.device)
        page = pages.to(torch.int64)[position // self.page_size]
        if self.quantization is not None:
            return self._codes.read(self.data, page, position % self.page_size)
        keys, values = self._elements(position % self.page_size)
        head = torch.arange(self.data.shape[1], device=self.data.device)[:, None, None]
        page = page[None, :, None]
        return self.data[page, head, keys], self.data[page, head, values]

    @property
    def _codes(self) -> quantized_kv.Layout:
        assert self.quantization is not None
        return quantized_kv.Layout(self.quantization, self.page_size, self.head_dim, self.value_dim)

    def _elements(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """Where in a page the keys (tokens, head_dim) and values (tokens, value_dim) of its tokens lie."""
        paired = self.data.dtype.itemsize == 2
        depth, width = _padded(self.data.dtype, self.head_dim, self.value_dim)
        token = token[:, None]
        d = torch.arange(self.head_dim, device=token.device)
        group, column = token // _GROUP * _GROUP * depth, token % _GROUP
        keys = group + (d // 2 * 2 * _GROUP + column * 2 + d % 2 if paired else d * _GROUP + column)
        d = torch.arange(self.value_dim, device=token.device)
        values = self.page_size * depth + (
            token // 2 * 2 * width + d * 2 + token % 2 if paired else token * width + d
        )
        return keys, values


def write_kv(
    k: Tensor,
    v: Tensor,
    cache: PagedKVCache,
    positions: Tensor,
    block_table: Tensor,
    *,
    cu_seqlens_q: Tensor | None = None,
) -> None:
    """Writes new tokens' keys and values into their pages; `cache.data` is changed in place.

    Args:
        k: (batch, kv_heads, q_len, head_dim), dtype of the cache (any, if it is quantized); any strides.
        v: (batch, kv_heads, q_len, value_dim), dtype of k; any strides.
        cache: where to.
        positions: integers (batch, q_len), each token's place in its sequence; negative: padding, not written. Two
            tokens for one place leave either.
        block_table: int32 or int64, (batch, max_pages): the pages of each sequence. Only those written to are read.
        cu_seqlens_q: integers (batch + 1,), from 0 to the number of tokens: k and v are then (tokens, kv_heads, dim)
            and positions (tokens,).

    Raises:
        ValueError: shapes, positions or pages do not fit, or a gradient is asked for. TypeError: dtypes do not fit.
            Nothing has been written then.
    """
    k, v = _to_cache_dtype(cache, k, v)
    _check_write(k, v, cache, positions, block_table, cu_seqlens_q)
    if not _library.runs_kernels(k, cuda=k.is_cuda and _fits_cuda(k, cache)):
        _write_kv_reference(k, v, cache, positions, block_table, cu_seqlens_q)
        return
    if cu_seqlens_q is not None:
        k, v = k.transpose(0, 1)[None], v.transpose(0, 1)[None]
    torch.ops.pyllm.write_kv_.default(
        k,
        v,
        cache.data,
        positions.reshape(-1),
        block_table,
        cu_seqlens_q,
        cache.page_size,
        cache.quantization,
    )


def paged_attention(
    q: Tensor,
    cache: PagedKVCache,
    block_table: Tensor,
    lengths: Tensor,
    *,
    is_causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    prefix_length: int | Tensor | None = None,
    sink_tokens: int = 0,
    sink_logits: Tensor | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of the newest tokens to their sequences' cached keys and values (Kwon et al., "PagedAttention", 2023).

    The same numbers, to the bit, as `pyllm.ops.attention` on the keys and values that `cache.read` gives, whatever the
    pages, the chunks that a prompt was cut into, and the other sequences. Not differentiable.

    Args:
        q: (batch, heads, q_len, head_dim), dtype of the cache (any, if it is quantized); any strides. The last query of
            a sequence stands on its last key, so `write_kv` comes first.
        cache: the pages; heads a multiple of its kv_heads.
        block_table: int32 or int64, (batch, max_pages). Only pages that `lengths` reaches are read.
        lengths: integers (batch,), keys of each sequence, those of q included.
        is_causal: queries see no later key; True, as a decoder wants it.
        scale, window, prefix_length, sink_tokens, sink_logits, softcap, alibi_slopes: as in `pyllm.ops.attention`.
        cu_seqlens_q: integers (batch + 1,), from 0 to the number of tokens: q is then (tokens, heads, head_dim), for
            chunks of different lengths.
        return_lse: also return the log of the softmax's denominator.

    Returns:
        out, (batch, heads, q_len, value_dim) in q's dtype, laid out in memory as (batch, q_len, heads, value_dim); or
        (out, lse) with lse (batch, heads, q_len), float32. Packed: (tokens, heads, value_dim) and (heads, tokens). A
        query without keys gives zeros, and -inf as lse.

    Raises:
        ValueError: shapes, lengths or pages do not fit, or a gradient is asked for. TypeError: dtypes do not fit.
    """
    (q,) = _to_cache_dtype(cache, q)
    _check_attention(q, cache, block_table, lengths, sink_logits, alibi_slopes, cu_seqlens_q)
    check_score_options("paged_attention", scale, window, sink_tokens, softcap)
    prefix = _prefix("paged_attention", prefix_length, lengths)
    tensors = (block_table, lengths, sink_logits, alibi_slopes, prefix, cu_seqlens_q)
    numbers = (is_causal, scale, window, sink_tokens, softcap)
    if not _library.runs_kernels(q, cuda=q.is_cuda and _fits_cuda(q, cache)):
        out, lse = _paged_attention_reference(q, cache, *tensors, *numbers)
        return (out, lse) if return_lse else out
    packed = cu_seqlens_q is not None
    out, lse = torch.ops.pyllm.paged_attention.default(
        q.transpose(0, 1)[None] if packed else q,
        cache.data,
        *tensors,
        cache.page_size,
        cache.value_dim,
        *numbers,
        cache.quantization,
    )
    if packed:
        out, lse = out[0].transpose(0, 1), lse[0]
    return (out, lse) if return_lse else out


def _fits_cuda(x: Tensor, cache: PagedKVCache) -> bool:
    """True if the CUDA kernels can do it: 16 bits, head sizes up to 128, pages that begin at multiples of 16 bytes."""
    if cache.quantization is not None or x.dtype not in (torch.bfloat16, torch.float16):
        return False
    begins = (cache.data.data_ptr() // 2, cache.data.stride(0), cache.data.stride(1))
    return all(n % 8 == 0 for n in begins) and all(
        dim % 8 == 0 and 0 < dim <= 128 for dim in (cache.head_dim, cache.value_dim)
    )


def _check_page_size(page_size: int) -> None:
    if page_size not in PAGE_SIZES:
        raise ValueError(
            f"PagedKVCache: page_size must divide attention's block of 256 keys and be one of {PAGE_SIZES}, "
            f"got {page_size}"
        )


def _padded(dtype: torch.dtype, head_dim: int, value_dim: int) -> tuple[int, int]:
    depth = -(-head_dim // 32) * 32 if dtype.itemsize == 2 else head_dim
    return depth, -(-value_dim // 16) * 16


def _page_elements(
    dtype: torch.dtype, quantization: str | None, page_size: int, head_dim: int, value_dim: int
) -> int:
    if quantization is not None:
        return quantized_kv.Layout(quantization, page_size, head_dim, value_dim).bytes
    return page_size * sum(_padded(dtype, head_dim, value_dim))


def _to_cache_dtype(cache: PagedKVCache, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast the cache's dtype rules."""
    if cache.quantization is not None or all(x.dtype == cache.data.dtype for x in tensors):
        return tensors
    if not torch.is_autocast_enabled(cache.data.device.type):
        return tensors
    return tuple(x.to(cache.data.dtype) if x.is_floating_point() else x for x in tensors)


def _check_rows(op: str, name: str, x: Tensor, cache: PagedKVCache, dim: int, packed: bool) -> None:
    shape = x.shape
    if len(shape) != (3 if packed else 4):
        layout = "(tokens, heads, dim)" if packed else "(batch, heads, length, dim)"
        raise ValueError(f"{op}: {name} must be {layout}, got {tuple(shape)}")
    if cache.quantization is not None:
        _library.check_dtype(op, name, x)
    elif x.dtype != cache.data.dtype:
        raise TypeError(f"{op}: {name} must have the dtype of the cache, {cache.data.dtype}, got {x.dtype}")
    if shape[-1] != dim:
        raise ValueError(f"{op}: {name}'s last dimension must be the cache's, {dim}, got {tuple(shape)}")
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{op}: {name} requires a gradient, and paged attention gives none; detach it")


def _check_indices(op: str, name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    if x.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{op}: {name} must be int32 or int64, got {x.dtype}")
    if x.shape != shape:
        raise ValueError(f"{op}: {name} must have shape {shape}, got {tuple(x.shape)}")


def _check_table(op: str, block_table: Tensor, sequences: int) -> None:
    if block_table.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{op}: block_table must be int32 or int64, got {block_table.dtype}")
    if block_table.dim() != 2 or block_table.shape[0] != sequences:
        raise ValueError(
            f"{op}: block_table must be ({sequences}, max_pages), got {tuple(block_table.shape)}"
        )


def _check_borders(op: str, cu_seqlens_q: Tensor, tokens: int) -> None:
    if cu_seqlens_q.dim() != 1 or cu_seqlens_q.shape[0] < 1:
        raise ValueError(f"{op}: cu_seqlens_q must have shape (batch + 1,), got {tuple(cu_seqlens_q.shape)}")
    _check_indices(op, "cu_seqlens_q", cu_seqlens_q, tuple(cu_seqlens_q.shape))


def _check_write(
    k: Tensor,
    v: Tensor,
    cache: PagedKVCache,
    positions: Tensor,
    block_table: Tensor,
    cu_seqlens_q: Tensor | None,
) -> None:
    packed = cu_seqlens_q is not None
    _check_rows("write_kv", "k", k, cache, cache.head_dim, packed)
    _check_rows("write_kv", "v", v, cache, cache.value_dim, packed)
    if k.shape[:-1] != v.shape[:-1]:
        raise ValueError(f"write_kv: v must have k's shape but for its last dimension, got {tuple(v.shape)}")
    if k.shape[1] != cache.data.shape[1]:
        raise ValueError(f"write_kv: k must have the cache's {cache.data.shape[1]} heads, got {k.shape[1]}")
    if cu_seqlens_q is None:
        _check_indices("write_kv", "positions", positions, (k.shape[0], k.shape[2]))
        _check_table("write_kv", block_table, k.shape[0])
        return
    _check_indices("write_kv", "positions", positions, (k.shape[0],))
    _check_borders("write_kv", cu_seqlens_q, k.shape[0])
    _check_table("write_kv", block_table, cu_seqlens_q.shape[0] - 1)


def _check_attention(
    q: Tensor,
    cache: PagedKVCache,
    block_table: Tensor,
    lengths: Tensor,
    sink_logits: Tensor | None,
    alibi_slopes: Tensor | None,
    cu_seqlens_q: Tensor | None,
) -> None:
    op = "paged_attention"
    _check_rows(op, "q", q, cache, cache.head_dim, cu_seqlens_q is not None)
    heads, kv_heads = q.shape[1], cache.data.shape[1]
    if heads != kv_heads and (kv_heads == 0 or heads % kv_heads != 0):
        raise ValueError(f"{op}: q's heads must be a multiple of the cache's, got {heads} and {kv_heads}")
    sequences = q.shape[0]
    if cu_seqlens_q is not None:
        _check_borders(op, cu_seqlens_q, q.shape[0])
        sequences = cu_seqlens_q.shape[0] - 1
    _check_indices(op, "lengths", lengths, (sequences,))
    _check_table(op, block_table, sequences)
    for name, x in (("sink_logits", sink_logits), ("alibi_slopes", alibi_slopes)):
        if x is None:
            continue
        if not x.is_floating_point():
            raise TypeError(f"{op}: {name} must be floating point, got {x.dtype}")
        if x.shape != (heads,):
            raise ValueError(f"{op}: {name} must have shape ({heads},), got {tuple(x.shape)}")
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{op}: {name} requires a gradient, and paged attention gives none; detach it")


def _prefix(op: str, prefix_length: int | Tensor | None, lengths: Tensor) -> Tensor | None:
    if prefix_length is None or isinstance(prefix_length, Tensor):
        if prefix_length is not None:
            _check_indices(op, "prefix_length", prefix_length, tuple(lengths.shape))
        return prefix_length
    if prefix_length < 0:
        raise ValueError(f"{op}: prefix_length must not be negative, got {prefix_length}")
    return torch.full_like(lengths, prefix_length)


def _write_kv_reference(
    k: Tensor,
    v: Tensor,
    cache: PagedKVCache,
    positions: Tensor,
    block_table: Tensor,
    cu_seqlens_q: Tensor | None,
) -> None:
    """`write_kv` in plain torch."""
    if cu_seqlens_q is None:
        sequence = torch.arange(k.shape[0], device=k.device).repeat_interleave(k.shape[2])
        k, v = (x.transpose(1, 2).flatten(0, 1) for x in (k, v))
    else:
        sequence = torch.repeat_interleave(cu_seqlens_q.diff())
    positions = positions.flatten()
    written = positions >= 0
    positions, sequence, k, v = (x[written] for x in (positions, sequence, k, v))
    page = block_table[sequence, positions // cache.page_size].to(torch.int64)
    if cache.quantization is not None:
        cache._codes.write(cache.data, page, positions % cache.page_size, k, v)
        return
    page = page[:, None, None]
    head = torch.arange(k.shape[1], device=k.device)[:, None]
    keys, values = cache._elements(positions % cache.page_size)
    cache.data[page, head, keys[:, None]] = k
    cache.data[page, head, values[:, None]] = v


def _paged_attention_reference(
    q: Tensor,
    cache: PagedKVCache,
    block_table: Tensor,
    lengths: Tensor,
    sink_logits: Tensor | None,
    alibi_slopes: Tensor | None,
    prefix_length: Tensor | None,
    cu_seqlens_q: Tensor | None,
    *numbers: Any,
) -> tuple[Tensor, Tensor]:
    """`paged_attention` in plain torch: every sequence by itself."""
    outs, lses = [], []
    for n, length in enumerate(lengths.tolist()):
        k, v = cache.read(block_table[n], length)
        rows = q[n] if cu_seqlens_q is None else q[cu_seqlens_q[n] : cu_seqlens_q[n + 1]].transpose(0, 1)
        prefix = None if prefix_length is None else prefix_length[n : n + 1]
        masks = (None, sink_logits, alibi_slopes, prefix, None, None, None, None)
        if cache.quantization is not None:
            rows = rows.to(torch.promote_types(q.dtype, torch.float32))
            k, v = k.to(rows.dtype), v.to(rows.dtype)
        out, lse = attention_reference(rows[None], k[None], v[None], *masks, *numbers)
        outs.append(out.to(q.dtype))
        lses.append(lse)
    if cu_seqlens_q is None:
        return torch.cat(outs), torch.cat(lses)
    return torch.cat([out[0].transpose(0, 1) for out in outs]), torch.cat([lse[0] for lse in lses], 1)


@_library.register_fake("write_kv_")
def _(*arguments: Any) -> None:
    return None


@_library.register_fake("paged_attention")
def _(q: Tensor, cache: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    batch, heads, tokens, _ = q.shape
    value_dim = options[7]
    out = q.new_empty((batch, tokens, heads, value_dim)).transpose(1, 2)
    return out, q.new_empty((batch, heads, tokens), dtype=torch.promote_types(q.dtype, torch.float32))
