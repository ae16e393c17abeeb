"""Keys and values of the tokens seen so far, one contiguous stretch per row of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pyllm.nn.functional import attend

# Attention counts keys in blocks of 256: growing by whole blocks keeps a copy out of most steps.
GROWTH = 256


class CacheShape(Protocol):
    """What a configuration says about keys and values."""

    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def num_key_value_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...


class KVCache:
    """A cache for `batch_size` texts of different lengths, each in a row of its own.

    Row b holds `lengths[b]` tokens. A step (`begin`, one `layer(i).attend` per layer, `advance`) takes the
    same number of new tokens for every row; a row that has fewer is padded on the right, and `advance` counts
    only its real ones: the padding is never seen by a real token and is overwritten by the next step. What a
    row computes depends on nothing but its own tokens. The network sees `begin`, `layer` and `advance` only, so
    that other layouts (pages) can take this one's place.

    Args:
        capacity: tokens per row that fit before the storage grows (it does so by itself).
        dtype: of keys and values, the network's own.

    Attributes:
        lengths: (batch_size,) int64, tokens stored per row.
    """

    def __init__(
        self,
        config: CacheShape,
        batch_size: int,
        *,
        capacity: int = GROWTH,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch_size < 1 or capacity < 1:
            raise ValueError(f"batch_size and capacity must be positive, got {batch_size} and {capacity}")
        shape = (batch_size, capacity, config.num_key_value_heads, config.head_dim)
        # Zeros, not garbage: keys beyond a row's length are masked, but NaN there would cost a slow path.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self._longest = 0
        self._new_tokens = 0
        self._slots = self.lengths
        self._kv_lengths = self.lengths

    @property
    def batch_size(self) -> int:
        return self.lengths.shape[0]

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[1]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self._longest

    def begin(self, new_tokens: int) -> Tensor:
        """Make room for `new_tokens` per row and return their positions, (batch_size, new_tokens) int64."""
        self._reserve(self._longest + new_tokens)
        device = self.lengths.device
        positions = self.lengths[:, None] + torch.arange(new_tokens, device=device)
        first_slot = torch.arange(self.batch_size, device=device)[:, None] * self.capacity
        self._slots = (first_slot + positions).flatten()
        # Padding counts here, so that the bottom-right causal mask meets each query at its own position.
        self._kv_lengths = self.lengths + new_tokens
        self._new_tokens = new_tokens
        return positions

    def layer(self, index: int) -> LayerCache:
        return LayerCache(self, index)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        """Store k, v (batch, kv_heads, new_tokens, head_dim) at the rows' ends and attend causally from q."""
        keys, values = self.keys[layer], self.values[layer]
        keys.flatten(0, 1).index_copy_(0, self._slots, k.transpose(1, 2).flatten(0, 1))
        values.flatten(0, 1).index_copy_(0, self._slots, v.transpose(1, 2).flatten(0, 1))
        end = self._longest + self._new_tokens
        keys, values = keys[:, :end].transpose(1, 2), values[:, :end].transpose(1, 2)
        return attend(q, keys, values, is_causal=True, kv_lengths=self._kv_lengths, **options)

    def advance(self, input_lengths: Tensor | None = None) -> None:
        """Count a finished step's tokens: all, or the first `input_lengths` (batch_size,) of each row."""
        new = self._new_tokens if input_lengths is None else input_lengths.to(self.lengths)
        self.lengths = self.lengths + new
        self._longest = int(self.lengths.max())

    def truncate(self, lengths: Tensor) -> None:
        """Forget all but the first `lengths` (batch_size,) tokens of each row."""
        if lengths.shape != self.lengths.shape or bool(((lengths < 0) | (lengths > self.lengths)).any()):
            raise ValueError(f"lengths must lie in [0, {self.lengths.tolist()}], got {lengths.tolist()}")
        self.lengths = lengths.to(self.lengths)
        self._longest = int(self.lengths.max())

    def select(self, rows: Tensor) -> None:
        """Keep copies of `rows` (n,) int64, in that order: drops finished texts, or follows a beam search."""
        if rows.dim() != 1 or not rows.numel():
            raise ValueError(f"rows must be a vector of at least one row, got shape {tuple(rows.shape)}")
        self.keys = [keys.index_select(0, rows) for keys in self.keys]
        self.values = [values.index_select(0, rows) for values in self.values]
        self.lengths = self.lengths.index_select(0, rows)
        self._longest = int(self.lengths.max())

    def _reserve(self, tokens: int) -> None:
        if tokens <= self.capacity:
            return
        capacity = -(-max(tokens, 2 * self.capacity) // GROWTH) * GROWTH
        self.keys = [_grown(keys, capacity) for keys in self.keys]
        self.values = [_grown(values, capacity) for values in self.values]


@dataclass(frozen=True)
class LayerCache:
    """One layer's view of a `KVCache`, as `pyllm.nn.Attention` takes it."""

    cache: KVCache
    index: int

    def attend(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        return self.cache.attend(self.index, q, k, v, **options)


def _grown(stored: Tensor, capacity: int) -> Tensor:
    grown = stored.new_zeros(stored.shape[0], capacity, *stored.shape[2:])
    grown[:, : stored.shape[1]] = stored
    return grown
